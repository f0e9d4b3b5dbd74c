{{- define "seamark.labels" -}}
app.kubernetes.io/name: seamark
{{- end }}

{{- define "seamark.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What the schema cannot say, since it is about two values. */ -}}
{{- define "seamark.validate" -}}
{{- if ne .Release.Namespace "seamark-system" }}
{{- fail (printf "namespace %q: want seamark-system, where the daemons keep their leases: add --namespace seamark-system --create-namespace" .Release.Namespace) }}
{{- end }}
{{- with .Values }}
{{- if lt (int .leaseDurationSeconds) (mul 3 .leaseRenewSeconds | int) }}
{{- fail (printf "leaseDurationSeconds %v is less than three times leaseRenewSeconds %v: one lost write would cost a node its addresses" .leaseDurationSeconds .leaseRenewSeconds) }}
{{- end }}
{{- if lt (int .restartGraceSeconds) (int .leaseDurationSeconds) }}
{{- fail (printf "restartGraceSeconds %v is less than leaseDurationSeconds %v: every restart would move addresses" .restartGraceSeconds .leaseDurationSeconds) }}
{{- end }}
{{- if le (int .restartGraceSeconds) (int .terminationGracePeriodSeconds) }}
{{- fail (printf "terminationGracePeriodSeconds %v is not less than restartGraceSeconds %v: the addresses could be lost before a daemon that stops slowly is back" .terminationGracePeriodSeconds .restartGraceSeconds) }}
{{- end }}
{{- end }}
{{- end }}
