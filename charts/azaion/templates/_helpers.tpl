{{/* Names are fixed, so that guides, dashboards and the parts themselves agree on them; a namespace holds one installation. */}}

{{- define "azaion.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "azaion.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .name }}
app.kubernetes.io/part-of: azaion
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of pods: without the chart's version, so that an upgrade restarts only what it changes. */}}
{{- define "azaion.podLabels" -}}
{{ include "azaion.selector" . }}
app.kubernetes.io/component: {{ .name }}
app.kubernetes.io/part-of: azaion
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "azaion.selector" -}}
app.kubernetes.io/name: azaion-{{ .name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* A full image reference of {image, registry, tag}. A digest wins over a tag. */}}
{{- define "azaion.image" -}}
{{- $name := printf "%s/%s" .registry .image.repository -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .tag) -}}
{{- end -}}
{{- end }}

{{/* One of our own images, by name. */}}
{{- define "azaion.ownImage" -}}
{{- $images := .root.Values.images -}}
{{- include "azaion.image" (dict "image" (index $images .name) "registry" $images.registry "tag" ($images.tag | default .root.Chart.AppVersion)) -}}
{{- end }}

{{/* An image that is not ours, with its own registry. */}}
{{- define "azaion.otherImage" -}}
{{- include "azaion.image" (dict "image" . "registry" .registry "tag" "") -}}
{{- end }}

{{/* Recording rules and alerts, with their pages' address. They hold Prometheus' own braces, so they are no template. */}}
{{- define "azaion.rules" -}}
{{- .Files.Get "files/rules.yaml" | replace "RUNBOOKS/" (printf "%s/" (trimSuffix "/" .Values.monitoring.runbookUrl)) -}}
{{- end }}

{{/* The dashboards as data of a ConfigMap. */}}
{{- define "azaion.dashboards" -}}
{{- range $path, $_ := .Files.Glob "files/dashboards/*.json" }}
{{ base $path }}: |
  {{- $.Files.Get $path | nindent 2 }}
{{- end }}
{{- end }}

{{/* The claim every pod of ours mounts. */}}
{{- define "azaion.claim" -}}
{{- .Values.storage.existingClaim | default "azaion" -}}
{{- end }}

{{/* The port in the MLflow server's address, or its scheme's. */}}
{{- define "azaion.mlflowPort" -}}
{{- $uri := .Values.tracking.mlflow.uri -}}
{{- $port := regexFind ":[0-9]+" (trimPrefix "https:" (trimPrefix "http:" $uri)) -}}
{{- trimPrefix ":" $port | default (ternary "443" "80" (hasPrefix "https:" $uri)) -}}
{{- end }}

{{- define "azaion.priorityClass" -}}
{{- printf "%s-%s" .root.Release.Namespace .name -}}
{{- end }}

{{- define "azaion.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop:
    - ALL
{{- end }}

{{- define "azaion.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user }}
runAsGroup: {{ .user }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Head of every pod: who pulls, with which priority. */}}
{{- define "azaion.podHead" -}}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .root.Values.priorityClasses.create }}
priorityClassName: {{ include "azaion.priorityClass" (dict "root" .root "name" "platform") }}
{{- end }}
enableServiceLinks: false
{{- end }}
