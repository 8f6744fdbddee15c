-- How Argo CD judges Matriarch's resources: by conditions and generations, never by words meant for people.
-- The same script serves all kinds; docs/install.md says how it gets into argocd-cm.
local health = { status = "Progressing", message = "The operator has not looked at it yet" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end

-- What is worth a word although the resource is as wished, by the value that says so.
local worth = {
  Available = "False",
  BackupHealthy = "False",
  BackupsEncrypted = "False",
  BackupKeySaved = "False",
  ReplicasHealthy = "False",
  SyncDegraded = "True",
  VolumePressure = "True",
  InstanceWarnings = "True",
  Restoring = "True",
}
local found, notes = {}, {}
for _, condition in ipairs(status.conditions or {}) do
  local current = condition.observedGeneration == nil or condition.observedGeneration == obj.metadata.generation
  if current then
    found[condition.type] = condition
    if worth[condition.type] == condition.status and (condition.message or "") ~= "" then
      table.insert(notes, condition.message)
    end
  end
end

local function holds(type)
  return found[type] ~= nil and found[type].status == "True"
end

local function said(type)
  return found[type] ~= nil and found[type].message or ""
end

if holds("Stalled") then
  return { status = "Degraded", message = said("Stalled") }
end
if holds("Failed") then
  return { status = "Degraded", message = said("Failed") }
end
if holds("Reconciling") then
  return { status = "Progressing", message = said("Reconciling") }
end
if holds("Paused") or holds("Suspended") then
  return { status = "Suspended", message = said(holds("Paused") and "Paused" or "Suspended") }
end
if holds("Ready") then
  table.insert(notes, 1, said("Ready"))
  return { status = "Healthy", message = table.concat(notes, " ") }
end
health.message = said("Ready")
return health
