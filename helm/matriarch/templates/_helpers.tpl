{{- define "matriarch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "matriarch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "matriarch.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "matriarch.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "matriarch.labels" -}}
{{ include "matriarch.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: matriarch
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Never changes after a release: a Deployment's selector cannot. */}}
{{- define "matriarch.selector" -}}
app.kubernetes.io/name: {{ include "matriarch.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "matriarch.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "matriarch.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "matriarch.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* JSON with sorted keys: major version to image. */}}
{{- define "matriarch.postgresImages" -}}
{{- $images := dict }}
{{- $fallback := printf "localhost/matriarch/postgres:%s" .Chart.AppVersion }}
{{- range $version, $image := .Values.postgres.images }}
{{- $_ := set $images $version (default $fallback $image) }}
{{- end }}
{{- toJson $images }}
{{- end }}
