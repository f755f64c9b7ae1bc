-- The states of knowledge of each hour: the first is reached with the last first reading, each later correction gives
-- one more. A forecast made at T uses the latest state before T, so that a replay sees what was known then.
with reading as (
    select * from {{ ref('stg_validated__reading') }}
    where {{ in_build_hours('hour_utc') }}
),

first_state as (
    select series_id, hour_utc, max(received_at_utc) as known_at_utc
    from reading
    where revision = 1
    group by series_id, hour_utc
),

correction as (
    select distinct r.series_id, r.hour_utc, greatest(r.received_at_utc, f.known_at_utc) as known_at_utc
    from reading as r
    inner join first_state as f on r.series_id = f.series_id and r.hour_utc = f.hour_utc
    where r.revision > 1
)

select series_id, hour_utc, known_at_utc from first_state
union
select series_id, hour_utc, known_at_utc from correction
