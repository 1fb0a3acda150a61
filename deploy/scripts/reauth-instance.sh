#!/usr/bin/env bash
# Gets a connection paired again: starts it, draws its QR code in the terminal and waits for the scan.
#
#   API_KEY=... [API_URL=http://localhost:8080] [WAIT_SECONDS=120] reauth-instance.sh NAME
#
# API_KEY is the operator's key, a person's, or the one of this connection; it is in no command line. Ends with 0 when
# the connection is open, 1 when it is not, 2 when something is missing.
set -euo pipefail

fail() {
  echo "❌ $2" >&2
  exit "$1"
}

name=${1:-}
api_url=${API_URL:-http://localhost:8080}
wait_seconds=${WAIT_SECONDS:-120}
[[ $name =~ ^[a-zA-Z0-9_-]{1,100}$ ]] || fail 2 "Uso: API_KEY=... [API_URL=...] reauth-instance.sh NOME"
[[ -n ${API_KEY:-} ]] || fail 2 "Defina API_KEY."
[[ $wait_seconds =~ ^[0-9]+$ ]] || fail 2 "WAIT_SECONDS deve ser um número."
for tool in curl jq qrencode; do
  command -v "$tool" >/dev/null || fail 2 "Instale $tool."
done

# The data of an answer as JSON; what the product refuses ends the script with its sentence.
ask() {
  local answer
  answer=$(curl --silent --show-error --max-time 30 --request "$1" \
    --header @<(printf 'X-API-Key: %s\n' "$API_KEY") "${api_url%/}/instance/$name$2") || fail 1 "$api_url não responde."
  jq --exit-status '.success == true' <<<"$answer" >/dev/null 2>&1 ||
    fail 1 "$(jq --raw-output '.message // "Resposta inesperada."' <<<"$answer" 2>/dev/null || echo "Resposta inesperada.")"
  jq '.data' <<<"$answer"
}

echo "🔄 Reautenticação de $name"
data=$(ask GET /status)
status=$(jq --raw-output '.status' <<<"$data")
echo "📊 Status atual: $status"
if [[ $status == connected ]]; then
  echo "✅ Instância já conectada!"
  exit 0
fi
data=$(ask POST /connect)
shown=""
until=$((SECONDS + wait_seconds))
while ((SECONDS < until)); do
  data=$(ask GET /qrcode)
  if [[ $(jq --raw-output '.status' <<<"$data") == connected ]]; then
    echo "✅ Conectado com sucesso!"
    exit 0
  fi
  code=$(jq --raw-output '.qrcode // ""' <<<"$data")
  if [[ -n $code && $code != "$shown" ]]; then
    shown=$code
    echo "📱 Escaneie este QR code no WhatsApp:"
    qrencode -t UTF8 <<<"$code"
  fi
  sleep 2
done
data=$(ask GET /status)
fail 1 "Ainda não conectou. $(jq --raw-output '[.last_error, .action] | map(select(. != null)) | join(" ")' <<<"$data")"
