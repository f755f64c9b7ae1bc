-- For every state of knowledge of an hour, the reading that held for each of its intervals.
select distinct on (k.series_id, k.hour_utc, k.known_at_utc, r.interval_start_utc)
    k.series_id,
    k.hour_utc,
    k.known_at_utc,
    r.interval_start_utc,
    r.value,
    r.quality
from {{ ref('int_series__knowledge') }} as k
inner join {{ ref('stg_validated__reading') }} as r
    on k.series_id = r.series_id
    and k.hour_utc = r.hour_utc
    and r.received_at_utc <= k.known_at_utc
order by k.series_id, k.hour_utc, k.known_at_utc, r.interval_start_utc, r.revision desc
