-- The states of knowledge of each hour: one of what had arrived when the hour was worked on, and one for every moment at
-- which more arrived afterwards, late readings and corrections alike. A forecast made at T uses the latest state before
-- T, so that a replay sees what was known then, and what came later changes no state that was there.
with reading as (
    select * from {{ ref('stg_validated__reading') }}
    where {{ in_build_hours('hour_utc') }}
),

in_time as (
    select series_id, hour_utc, max(received_at_utc) as known_at_utc
    from reading
    where received_at_utc < {{ worked_on('hour_utc') }}
    group by series_id, hour_utc
),

afterwards as (
    select distinct series_id, hour_utc, received_at_utc as known_at_utc
    from reading
    where received_at_utc >= {{ worked_on('hour_utc') }}
)

select series_id, hour_utc, known_at_utc from in_time
union all
select series_id, hour_utc, known_at_utc from afterwards
