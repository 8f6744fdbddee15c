"""Writes what is generated from the models: `python -m matriarch.api.generate [--check]`.

`crds/` for kubectl and kustomize, the Helm chart's copies behind `crds.enabled`, and the reference page. `--check`
writes nothing and fails when a file is not what the models say.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from matriarch.api.backup import Backup
from matriarch.api.backup_schedule import BackupSchedule
from matriarch.api.crdgen import definition
from matriarch.api.database_cluster import DatabaseCluster
from matriarch.api.model import GROUP, Resource
from matriarch.api.reference import page
from matriarch.api.restore import Restore

KINDS: tuple[type[Resource], ...] = (DatabaseCluster, Backup, BackupSchedule, Restore)

ROOT = Path(__file__).parents[3]
HEALTH = "manifests/argocd/health.lua"
DECRYPTOR = "docs/recovery/matriarch-decrypt.py"
_HEADER = "# Generated from operator/matriarch/api/{source}.py by `make generate`. Change it there.\n"


class _Dumper(yaml.SafeDumper):
    """Indents lists like the rest of Kubernetes' world and never makes anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True


def files(root: Path = ROOT) -> dict[str, str]:
    """Every generated file: path from the project's top → content. Reads the health script below `root`."""
    made: dict[str, str] = {}
    for model in KINDS:
        crd = definition(model)
        text = yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        header = _HEADER.format(source=model.__module__.rsplit(".", 1)[-1])
        name = f"{GROUP}_{model.about.plural}.yaml"
        made[f"crds/{name}"] = header + text
        made[f"helm/matriarch/templates/crds/{name}"] = header + for_helm(text)
    made["crds/Kustomization"] = _kustomization()
    made["manifests/argocd/argocd-cm.yaml"] = _argocd((root / HEALTH).read_text(encoding="utf-8"))
    made["docs/reference/api.md"] = page(KINDS)
    # The command puts it into recovery bundles, also where there are no docs.
    made["operator/matriarch/cli/decryptor.txt"] = (root / DECRYPTOR).read_text(encoding="utf-8")
    return made


def _kustomization() -> str:
    """Without an ending, so that `kubectl apply -f crds/` does not take it for an object."""
    head = "# Generated from operator/matriarch/api/ by `make generate`. Change it there.\n"
    body = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{GROUP}_{model.about.plural}.yaml" for model in KINDS],
    }
    return head + yaml.dump(body, Dumper=_Dumper, sort_keys=False)


def _argocd(script: str) -> str:
    """A patch of Argo CD's ConfigMap: its keys know no wildcards, so every kind gets a copy of the script."""
    lines = [
        f"# Generated from {HEALTH} by `make generate`. Change it there.",
        "#   kubectl patch configmap argocd-cm -n argocd --patch-file manifests/argocd/argocd-cm.yaml",
        "data:",
    ]
    for model in KINDS:
        lines.append(f"  resource.customizations.health.{GROUP}_{model.about.kind}: |")
        lines += [f"    {line}".rstrip() for line in script.splitlines()]
    return "\n".join(lines) + "\n"


def for_helm(text: str) -> str:
    """The chart's form: behind `crds.enabled`, kept on uninstall unless `crds.keep` is off.

    Text in braces is Helm's language, so none may come from a description or a rule.
    """
    if "{{" in text:
        raise ValueError("a description or rule holds {{, which Helm would read as its own")
    metadata, rest = text.split("spec:\n", 1)
    return (
        "{{- if .Values.crds.enabled }}\n"
        f"{metadata}"
        "  labels:\n"
        '    {{- include "matriarch.labels" . | nindent 4 }}\n'
        "  {{- if .Values.crds.keep }}\n"
        "  annotations:\n"
        "    helm.sh/resource-policy: keep\n"
        "  {{- end }}\n"
        f"spec:\n{rest}"
        "{{- end }}\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Exit code 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--root", type=Path, default=ROOT, help="the project's top folder")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in files().items():
        path = options.root / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for name in stale:
        print(f"{'not as the models say: ' if options.check else 'wrote '}{name}")
    if stale and options.check:
        print("run `make generate`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
