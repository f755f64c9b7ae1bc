{{ config(
    on_schema_change='append_new_columns',
    pre_hook="{{ replace_build_hours() }}",
    indexes=[
      {'columns': ['hour_utc', 'series_id', 'known_at_utc'], 'unique': True},
      {'columns': ['series_id', 'hour_utc']},
    ]
) }}
-- Sums are ordered: the last bit of a sum of floats depends on the order, and digests see it.
with interval_value as (
    select
        i.series_id,
        i.hour_utc,
        i.known_at_utc,
        count(*) as intervals,
        sum(i.value order by i.interval_start_utc) as total,
        avg(i.value order by i.interval_start_utc) as mean,
        (array_agg(i.value order by i.interval_start_utc desc))[1] as last_value,
        bool_and(i.quality in ('high', 'medium')) as measured_well,
        max(array_position(array['high', 'medium', 'low', 'bad'], i.quality)) as worst
    from {{ ref('int_series__interval') }} as i
    where {{ in_build_hours('i.hour_utc') }}
    group by i.series_id, i.hour_utc, i.known_at_utc
)

select
    v.series_id,
    s.device_id,
    s.metric,
    s.role,
    s.region_id,
    s.participant_id,
    s.customer_class,
    v.hour_utc,
    v.known_at_utc,
    -- states may be reported more often than their interval
    least(v.intervals / greatest(60.0 / s.interval_minutes, 1.0), 1.0) as coverage,
    case s.kind
        -- an hour with gaps is filled with the mean of its own measured intervals (substitution rule hour-mean-1)
        when 'energy' then v.total * greatest(60.0 / s.interval_minutes, 1.0) / v.intervals
        when 'power' then {{ energy_kwh('v.mean', 60) }}
    end as energy_kwh,
    case when s.kind = 'state' then v.mean end as mean_value,
    case when s.kind = 'state' then v.last_value end as last_value,
    v.intervals < greatest(60.0 / s.interval_minutes, 1.0) as substituted,
    v.measured_well,
    v.known_at_utc = max(v.known_at_utc) over (partition by v.series_id, v.hour_utc) as is_latest,
    (array['high', 'medium', 'low', 'bad'])[v.worst] as worst_quality
from interval_value as v
inner join {{ ref('stg_registry__series') }} as s on v.series_id = s.series_id
where v.intervals / greatest(60.0 / s.interval_minutes, 1.0) >= {{ var('least_coverage') }}
