#!/usr/bin/env bash
# Aggregates one month of a product into a store of its own: for cron, where nobody watches.
#
#   15 4 2 * *  MAGG_STORES=s3://my-bucket/monthly /path/to/cron_month.sh >>"$HOME/magg.log" 2>&1
#
# It may run as often as one likes: CMR is asked anew each time, what is finished is skipped, what
# failed or has new granules is done. While one runs, another of the same month ends at once. ATL06
# comes some weeks after it was measured, so that a second line for an earlier month is of use:
#
#   15 5 2 * *  MAGG_MONTH=$(date -d "-3 months" +\%Y-\%m) MAGG_STORES=... /path/to/cron_month.sh
#
#   MAGG_STORES    where the stores go, one a month (required)
#   MAGG_MONTH     the month, such as 2023-01 (default: the last that is over)
#   MAGG_CONFIG    a config (default: atl06)
#   MAGG_PRODUCT   the product that is asked for at NASA's CMR (default: ATL06)
#   MAGG_AREA      options of `magg catalog cmr` (default: --polygon antarctica)
#   MAGG_GRANULES  a folder of granules, which are used in place of CMR's
#   MAGG_WORK      a folder for catalogs and locks (default: ~/.cache/magg-months)
#   MAGG_OPTIONS   further options of `magg run`, such as --backend lambda
#   MAGG           the command (default: magg)
set -euo pipefail

: "${MAGG_STORES:?set MAGG_STORES to where the stores go, such as s3://my-bucket/monthly}"
month=${MAGG_MONTH:-$(date -u -d "$(date -u +%Y-%m-01) -1 day" +%Y-%m)}
config=${MAGG_CONFIG:-atl06}
product=${MAGG_PRODUCT:-ATL06}
work=${MAGG_WORK:-${XDG_CACHE_HOME:-$HOME/.cache}/magg-months}
read -ra magg <<<"${MAGG:-magg}"
read -ra area <<<"${MAGG_AREA:---polygon antarctica}"
read -ra options <<<"${MAGG_OPTIONS:-}"

if [[ ! $month =~ ^[0-9]{4}-(0[1-9]|1[0-2])$ ]]; then
    echo "cron_month: MAGG_MONTH is '$month', which is no month such as 2023-01" >&2
    exit 2
fi
say() { printf '%s %s %s: %s\n' "$(date -u +%FT%TZ)" "$product" "$month" "$*"; }

mkdir -p "$work"
exec 9>"$work/$product-$month.lock"
if ! flock --nonblock 9; then
    say "is being done already"
    exit 0
fi

catalog=$work/$product-$month.json
if [[ -n ${MAGG_GRANULES:-} ]]; then
    "${magg[@]}" catalog files "$MAGG_GRANULES" --config "$config" -o "$catalog"
else
    last=$(date -u -d "$month-01 +1 month -1 day" +%F)
    "${magg[@]}" catalog cmr "$product" --start-date "$month-01" --end-date "$last" \
        "${area[@]}" -o "$catalog"
fi

status=0
"${magg[@]}" run "$config" --catalog "$catalog" --store "${MAGG_STORES%/}/$product-$month.zarr" \
    --quiet "${options[@]}" || status=$?
say "ended with status $status"
exit "$status"
