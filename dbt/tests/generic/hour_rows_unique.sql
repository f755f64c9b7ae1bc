{# No two rows of the built hours share the given columns. #}
{% test hour_rows_unique(model, columns) %}
select {{ columns | join(", ") }}, count(*) as rows
from {{ model }}
where {{ in_build_hours("hour_utc") }}
group by {{ columns | join(", ") }}
having count(*) > 1
{% endtest %}
