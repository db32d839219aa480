{{/*
What the schema cannot say in words that help. It refuses unknown values and wrong types with their place; what a text has
to look like is said here, every mistake in a sentence with its place, and all of them at once.
*/}}

{{/* Adds a mistake to .found.list when .value does not match .pattern: {found, path, value, pattern, advice}. */}}
{{- define "azaion.expect" -}}
{{- if not (regexMatch .pattern (toString .value)) -}}
{{- $_ := set .found "list" (append .found.list (printf "%s is %q: %s" .path (toString .value) .advice)) -}}
{{- end -}}
{{- end }}

{{- define "azaion.mistake" -}}
{{- $_ := set .found "list" (append .found.list .text) -}}
{{- end }}

{{- define "azaion.expectRegistry" -}}
{{- include "azaion.expect" (merge (dict "pattern" "^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9._/-]+)?$" "advice" "give the registry's host name, with its port if it has one, and no scheme, for example registry.example.com:5000") .) -}}
{{- end }}

{{- define "azaion.expectName" -}}
{{- include "azaion.expect" (merge (dict "pattern" "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$" "advice" (printf "name %s: lower-case letters, digits, - and ." .kind)) .) -}}
{{- end }}

{{/* {found, path, image}: a repository, and a tag and a digest that may be empty. */}}
{{- define "azaion.expectImage" -}}
{{- include "azaion.expect" (dict "found" .found "path" (printf "%s.repository" .path) "value" .image.repository "pattern" "^[a-z0-9]+([._/-]+[a-z0-9]+)*$" "advice" "give the image's name without registry and tag, for example azaion/trainer") -}}
{{- if .image.tag -}}
{{- include "azaion.expectTag" (dict "found" .found "path" (printf "%s.tag" .path) "value" .image.tag) -}}
{{- end -}}
{{- if .image.digest -}}
{{- include "azaion.expect" (dict "found" .found "path" (printf "%s.digest" .path) "value" .image.digest "pattern" "^sha256:[0-9a-f]{64}$" "advice" "give sha256: and 64 hexadecimal digits, or leave it empty to go by the tag") -}}
{{- end -}}
{{- end }}

{{- define "azaion.expectTag" -}}
{{- include "azaion.expect" (merge (dict "pattern" "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$" "advice" "give a tag such as 1.4.0: letters, digits, _ . and -, at most 128 of them") .) -}}
{{- end }}

{{- define "azaion.expectResources" -}}
{{- $found := .found -}}{{- $path := .path -}}
{{- range $part, $quantities := .resources -}}
{{- range $name, $quantity := $quantities -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "%s.%s.%s" $path $part $name) "value" $quantity "pattern" "^[0-9]+(\\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$" "advice" "give a quantity such as 100m, 2, 512Mi or 4Gi") -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* {found, root}: an MLflow server that trainings may be told to, and can reach. */}}
{{- define "azaion.validateMlflow" -}}
{{- $found := .found -}}{{- $v := .root.Values -}}{{- $mlflow := $v.tracking.mlflow -}}
{{- with $mlflow.secretName -}}
{{- include "azaion.expectName" (dict "found" $found "path" "tracking.mlflow.secretName" "value" . "kind" "a Secret of this namespace (kubectl get secrets)") -}}
{{- end -}}
{{- if contains "@" $mlflow.uri -}}
{{- include "azaion.mistake" (dict "found" $found "text" "tracking.mlflow.uri holds an @: credentials belong into a Secret named in tracking.mlflow.secretName") -}}
{{- else if $mlflow.uri -}}
{{- include "azaion.expect" (dict "found" $found "path" "tracking.mlflow.uri" "value" $mlflow.uri "pattern" "^https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~/-]*)?$" "advice" "give the address of an MLflow server, such as http://mlflow:5000") -}}
{{- $host := lower (regexReplaceAll "^https?://([^:/]*).*$" $mlflow.uri "${1}") -}}
{{- $own := printf "^[^.]+(\\.%s\\.svc(\\.cluster\\.local)?)?$" .root.Release.Namespace -}}
{{- $allowed := regexMatch $own $host -}}
{{- range $pattern := $v.access.hosts -}}
{{- if regexMatch (printf "^%s$" (lower $pattern | regexQuoteMeta | replace "\\*" ".*")) $host -}}{{- $allowed = true -}}{{- end -}}
{{- end -}}
{{- if not $allowed -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "tracking.mlflow.uri: the host %s is no Service of this namespace and not on the list access.hosts; add it there" $host)) -}}
{{- end -}}
{{- if and $v.networkPolicies.enabled (not $v.networkPolicies.mlflow.to) -}}
{{- include "azaion.mistake" (dict "found" $found "text" "networkPolicies.mlflow.to: say where the server of tracking.mlflow.uri is, or no training will reach it: [{podSelector: {matchLabels: {app: mlflow}}}] or [{ipBlock: {cidr: 192.0.2.7/32}}]") -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "azaion.validate" -}}
{{- $found := dict "list" list -}}
{{- $v := .Values -}}
{{- include "azaion.expectRegistry" (dict "found" $found "path" "images.registry" "value" $v.images.registry) -}}
{{- if $v.images.tag -}}
{{- include "azaion.expectTag" (dict "found" $found "path" "images.tag" "value" $v.images.tag) -}}
{{- end -}}
{{- range $name := list "operator" "consumer" "trainer" -}}
{{- include "azaion.expectImage" (dict "found" $found "path" (printf "images.%s" $name) "image" (index $v.images $name)) -}}
{{- end -}}
{{- range $i, $secret := $v.images.pullSecrets -}}
{{- include "azaion.expectName" (dict "found" $found "path" (printf "images.pullSecrets[%d].name" $i) "value" $secret.name "kind" "a Secret") -}}
{{- end -}}

{{- $storage := $v.storage -}}
{{- include "azaion.expect" (dict "found" $found "path" "storage.size" "value" $storage.size "pattern" "^[1-9][0-9]*(Mi|Gi|Ti|Pi|M|G|T|P)$" "advice" "give a whole number with a unit, such as 200Gi or 2Ti") -}}
{{- if $storage.storageClassName -}}
{{- include "azaion.expectName" (dict "found" $found "path" "storage.storageClassName" "value" $storage.storageClassName "kind" "a StorageClass (kubectl get storageclasses)") -}}
{{- end -}}
{{- if $storage.existingClaim -}}
{{- include "azaion.expectName" (dict "found" $found "path" "storage.existingClaim" "value" $storage.existingClaim "kind" "a claim of this namespace (kubectl get pvc)") -}}
{{- end -}}
{{- if $storage.hostPath.path -}}
{{- include "azaion.expect" (dict "found" $found "path" "storage.hostPath.path" "value" $storage.hostPath.path "pattern" "^(/[^/]+)+$" "advice" "give an absolute directory below the root, without a slash at the end, for example /azaion") -}}
{{- if contains "/../" (printf "%s/" $storage.hostPath.path) -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "storage.hostPath.path is %q: name the directory itself, without .." $storage.hostPath.path)) -}}
{{- end -}}
{{- if not $storage.hostPath.node -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "storage.hostPath.node: name the node that has %s (kubectl get nodes)" $storage.hostPath.path)) -}}
{{- end -}}
{{- end -}}
{{- if $storage.hostPath.node -}}
{{- include "azaion.expectName" (dict "found" $found "path" "storage.hostPath.node" "value" $storage.hostPath.node "kind" "a node (kubectl get nodes)") -}}
{{- if not $storage.hostPath.path -}}
{{- include "azaion.mistake" (dict "found" $found "text" "storage.hostPath.path: name the directory of the node, or leave storage.hostPath.node empty") -}}
{{- end -}}
{{- end -}}
{{- if and $storage.existingClaim $storage.hostPath.path -}}
{{- include "azaion.mistake" (dict "found" $found "text" "storage: existingClaim and hostPath.path exclude each other; leave one of them empty") -}}
{{- end -}}

{{- $ids := list -}}
{{- range $i, $class := $v.classes -}}
{{- if has (int $class.Id) $ids -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "classes: the Id %d is given twice; every class needs its own" (int $class.Id))) -}}
{{- end -}}
{{- $ids = append $ids (int $class.Id) -}}
{{- if $class.Color -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "classes[%d].Color" $i) "value" $class.Color "pattern" "^#[0-9A-Fa-f]{6}([0-9A-Fa-f]{2})?$" "advice" "give a colour as in HTML, such as #FF0000") -}}
{{- end -}}
{{- end -}}

{{- range $name := list "operator" "storage" -}}
{{- include "azaion.expectResources" (dict "found" $found "path" (printf "%s.resources" $name) "resources" (index $v $name).resources) -}}
{{- end -}}
{{- range $name := list "runtimeClassName" "priorityClassName" -}}
{{- with index $v.trainer $name -}}
{{- include "azaion.expectName" (dict "found" $found "path" (printf "trainer.%s" $name) "value" . "kind" "an object of the cluster") -}}
{{- end -}}
{{- end -}}
{{- with $v.consumer.priorityClassName -}}
{{- include "azaion.expectName" (dict "found" $found "path" "consumer.priorityClassName" "value" . "kind" "a PriorityClass (kubectl get priorityclasses)") -}}
{{- end -}}

{{- include "azaion.expectResources" (dict "found" $found "path" "tracking.tensorboard.resources" "resources" $v.tracking.tensorboard.resources) -}}
{{- include "azaion.validateMlflow" (dict "found" $found "root" .) -}}

{{- $m := $v.monitoring -}}
{{- range $path, $program := dict "kubeStateMetrics" $v.kubeStateMetrics "monitoring.prometheus" $m.prometheus "monitoring.alertmanager" $m.alertmanager "monitoring.nodeExporter" $m.nodeExporter "monitoring.grafana" $m.grafana "monitoring.logs.loki" $m.logs.loki "monitoring.logs.alloy" $m.logs.alloy "gpuExporter" $v.gpuExporter -}}
{{- if hasKey $program "image" -}}
{{- include "azaion.expectRegistry" (dict "found" $found "path" (printf "%s.image.registry" $path) "value" $program.image.registry) -}}
{{- include "azaion.expectImage" (dict "found" $found "path" (printf "%s.image" $path) "image" $program.image) -}}
{{- end -}}
{{- include "azaion.expectResources" (dict "found" $found "path" (printf "%s.resources" $path) "resources" $program.resources) -}}
{{- if hasKey $program "storage" -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "%s.storage.size" $path) "value" $program.storage.size "pattern" "^[1-9][0-9]*(Mi|Gi|Ti|M|G|T)$" "advice" "give a whole number with a unit, such as 20Gi") -}}
{{- end -}}
{{- end -}}
{{- include "azaion.expect" (dict "found" $found "path" "monitoring.prometheus.retention" "value" $m.prometheus.retention "pattern" "^[1-9][0-9]*(d|h)$" "advice" "give days or hours, such as 30d") -}}
{{- include "azaion.expect" (dict "found" $found "path" "monitoring.logs.retention" "value" $m.logs.retention "pattern" "^[1-9][0-9]*h$" "advice" "give hours, a multiple of 24, such as 720h") -}}
{{- if and (regexMatch "^[1-9][0-9]*h$" $m.logs.retention) (mod (trimSuffix "h" $m.logs.retention | int) 24) -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "monitoring.logs.retention is %q: whole days only, such as 720h, because logs are deleted by the day" $m.logs.retention)) -}}
{{- end -}}
{{- include "azaion.expect" (dict "found" $found "path" "monitoring.monitors.interval" "value" $m.monitors.interval "pattern" "^[1-9][0-9]*(s|m)$" "advice" "give seconds or minutes, such as 15s") -}}
{{- include "azaion.expect" (dict "found" $found "path" "monitoring.runbookUrl" "value" $m.runbookUrl "pattern" "^[^[:space:]\"'{}]+$" "advice" "give the address in front of NAME.md, for example https://wiki.example.com/azaion") -}}
{{- with $m.alertmanager.webhook.url -}}
{{- include "azaion.expect" (dict "found" $found "path" "monitoring.alertmanager.webhook.url" "value" . "pattern" "^https?://[^[:space:]\"']+$" "advice" "give an http or https URL; one that holds a token belongs into a Secret named in webhook.secret.name") -}}
{{- end -}}
{{- if and $m.alertmanager.webhook.url $m.alertmanager.webhook.secret.name -}}
{{- include "azaion.mistake" (dict "found" $found "text" "monitoring.alertmanager.webhook: url and secret.name exclude each other; leave one of them empty") -}}
{{- end -}}

{{- range $list, $kind := dict "secrets" "a Secret" "hosts" "a host without scheme and port" "claims" "a claim" -}}
{{- range $i, $pattern := index $v.access $list -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "access.%s[%d]" $list $i) "value" $pattern "pattern" "^[A-Za-z0-9*]([A-Za-z0-9.*-]*[A-Za-z0-9*])?$" "advice" (printf "name %s, with * for any characters" $kind)) -}}
{{- end -}}
{{- end -}}
{{- range $i, $cidr := $v.networkPolicies.apiServer.cidrs -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "networkPolicies.apiServer.cidrs[%d]" $i) "value" $cidr "pattern" "^[0-9a-fA-F.:]+/[0-9]{1,3}$" "advice" "give a range of addresses such as 10.0.0.0/8, or one address such as 192.0.2.7/32") -}}
{{- end -}}
{{- range $list := list "broker" "publish" "mlflow" -}}
{{- range $i, $peer := (index $v.networkPolicies $list).to -}}
{{- with $peer.ipBlock -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "networkPolicies.%s.to[%d].ipBlock.cidr" $list $i) "value" .cidr "pattern" "^[0-9a-fA-F.:]+/[0-9]{1,3}$" "advice" "give a range of addresses such as 192.0.2.0/24, or one address such as 192.0.2.7/32; names cannot be used here") -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $i, $namespace := $v.networkPolicies.scrapeFrom -}}
{{- include "azaion.expectName" (dict "found" $found "path" (printf "networkPolicies.scrapeFrom[%d]" $i) "value" $namespace "kind" "a namespace (kubectl get namespaces)") -}}
{{- end -}}

{{- range $key, $value := $v.commonLabels -}}
{{- if regexMatch "^(app\\.kubernetes\\.io|helm\\.sh)/" $key -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "commonLabels: %s is set by the chart itself; choose another key" $key)) -}}
{{- end -}}
{{- include "azaion.expect" (dict "found" $found "path" (printf "commonLabels.%s" $key) "value" $value "pattern" "^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$" "advice" "a label's value has at most 63 letters, digits, - _ and ., and begins and ends with a letter or digit") -}}
{{- end -}}
{{- if gt (len .Release.Namespace) 40 -}}
{{- include "azaion.mistake" (dict "found" $found "text" (printf "namespace %s: names of cluster-wide objects are made from it, use at most 40 characters" .Release.Namespace)) -}}
{{- end -}}

{{- if $found.list -}}
{{- fail (printf "these values cannot be used:\n- %s" (join "\n- " $found.list)) -}}
{{- end -}}
{{- end }}
