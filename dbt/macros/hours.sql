{# Whether a column lies in the hours that this build replaces. #}
{% macro in_build_hours(column) -%}
  {{ column }} >= '{{ var("start_hour") }}'::timestamptz and {{ column }} < '{{ var("end_hour") }}'::timestamptz
{%- endmacro %}

{# Run before an incremental mart appends: the hours are replaced, so that a second build gives the same rows. #}
{% macro replace_build_hours() -%}
  {% if is_incremental() %}
    delete from {{ this }} where {{ in_build_hours("hour_utc") }}
  {% endif %}
{%- endmacro %}

{# kWh of a mean power in kW over an interval; the same rule as domain/units.py. #}
{% macro energy_kwh(power_kw, minutes) -%}
  ({{ power_kw }} * {{ minutes }} / 60.0)
{%- endmacro %}

{# When an hour is worked on: its end and the time that its last readings have to arrive; as in domain/intervals.py. #}
{% macro worked_on(hour) -%}
  ({{ hour }} + interval '1 hour' + interval '{{ var("settling_minutes") }} minutes')
{%- endmacro %}
