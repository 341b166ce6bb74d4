{{/* Names. A label may have 63 characters; what is put behind a name here takes 11 at most. */}}
{{- define "icon.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "icon.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "icon.operator" -}}
{{ include "icon.fullname" . }}-operator
{{- end -}}

{{- define "icon.redis" -}}
{{ include "icon.fullname" . }}-redis
{{- end -}}

{{- define "icon.serviceAccount" -}}
{{- default (ternary (include "icon.operator" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Labels by which pods are selected: they never change. Takes the root and the component. */}}
{{- define "icon.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "icon.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "icon.labels" -}}
{{- $root := index . 0 -}}
{{ include "icon.selector" . }}
app.kubernetes.io/part-of: idempotent-consumer
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* An image in full. Takes the root and the image's values. */}}
{{- define "icon.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $name := $image.repository -}}
{{- with $root.Values.imageRegistry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* What Pod Security `restricted` asks of a container. */}}
{{- define "icon.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What it asks of a pod. */}}
{{- define "icon.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* URL of the Redis of consumers that name none; may be empty. */}}
{{- define "icon.redisUrl" -}}
{{- if .Values.sidecar.redisUrl -}}
{{ .Values.sidecar.redisUrl }}
{{- else if .Values.redis.enabled -}}
redis://{{ include "icon.redis" . }}.{{ .Release.Namespace }}:6379
{{- end -}}
{{- end -}}

{{/* What the operator may do where it looks for consumers: as its own check at the start asks for it (operator/src/preflight). */}}
{{- define "icon.rules" -}}
# Consumers: read, and say in their status how they are.
- apiGroups: [idempotency.dev]
  resources: [idempotentconsumers]
  verbs: [get, list, watch]
- apiGroups: [idempotency.dev]
  resources: [idempotentconsumers/status]
  verbs: [patch]
# Children block the deletion of their owner; OwnerReferencesPermissionEnforcement, where it is on, asks for this.
- apiGroups: [idempotency.dev]
  resources: [idempotentconsumers/finalizers]
  verbs: [update]
# Children, and what consumers name. An apply of what is not there needs create, too.
- apiGroups: [""]
  resources: [configmaps, secrets, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Which configurations are named yet, and which sidecars to ask.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
