"""``dispatch.allocation`` and its items: setpoints that a VPP was asked to hold, and the commands that came of them.

One item at a time stands for each resource: that of the newest allocation which was applied, until its last step ends.
Functions take an open connection and never commit.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from energy_cloud_dagster.adapters import commands
from energy_cloud_dagster.adapters.commands import Command
from energy_cloud_dagster.adapters.tables import (
    allocation,
    allocation_item,
    command,
    device,
    reading,
    series,
    vpp_resource,
)
from energy_cloud_dagster.domain.commands import LONGEST_VALIDITY, Instruction, instruction
from energy_cloud_dagster.domain.dispatch.applying.allocations import Assignment, Span, largest_total_kw, safe_setpoint
from energy_cloud_dagster.domain.errors import Conflict, NotFound

#: Who commands on behalf of an allocation once it was applied.
FOLLOWER: Final = "dispatch"
WATCHDOG: Final = "watchdog"
#: A device keeps its setpoint so much longer than the step where another step follows: no gap between the two.
_OVERLAP: Final = timedelta(seconds=30)
#: Devices that do not report their present state are silent after so many of their intervals.
_SILENT_INTERVALS: Final = 2
_BATCH: Final = 1_000
_LONGEST: Final = LONGEST_VALIDITY


class Allocation(NamedTuple):
    """One allocation; ``state`` is waiting (for an approval) or applied."""

    allocation_id: str
    vpp_id: str
    optimization_id: str | None
    state: str
    total_kw: float
    starts_at: datetime
    step_minutes: int
    steps: int
    requested_by: str
    created_at: datetime
    approved_by: str | None
    applied_at: datetime | None

    @property
    def span(self) -> Span:
        """Return its steps."""
        return Span(self.starts_at, self.step_minutes, self.steps)


class Item(NamedTuple):
    """What an allocation asks of one resource; ``outputs`` in kW by step, ``step`` the one commanded last."""

    allocation_id: str
    vpp_id: str
    resource_id: str
    type: str
    device_id: str | None
    outputs: list[float]
    step: int | None
    command_id: str | None
    commanded_at: datetime | None
    safe_kw: float | None
    fallback_at: datetime | None

    @property
    def setpoint_kw(self) -> float:
        """Return what the resource shall hold now."""
        return self.outputs[self.step or 0] if self.safe_kw is None else self.safe_kw


class Standing(NamedTuple):
    """An item that stands, how far its command is, and the newer command (None: none) that a person gave instead."""

    item: Item
    command_state: str | None
    command_reason: str | None
    overridden_kw: float | None
    overridden: bool


_COLUMNS: Final = tuple(allocation.c[name] for name in Allocation._fields)
_ITEM: Final = tuple(allocation_item.c[name] for name in Item._fields)
_newer = command.alias("newer")
_reports = series.alias("reports")


def add(
    connection: sa.Connection,
    vpp_id: str,
    assignments: Sequence[Assignment],
    resources: Mapping[str, tuple[str, str | None]],
    span: Span,
    *,
    requested_by: str,
    now: datetime,
    optimization_id: str | None = None,
) -> Allocation:
    """Keep an allocation, waiting; ``resources`` gives (type, device id or None) by resource id."""
    made = Allocation(
        str(uuid.uuid4()), vpp_id, optimization_id, "waiting", largest_total_kw(assignments), span.start,
        span.minutes, span.steps, requested_by, now, None, None,
    )  # fmt: skip
    connection.execute(sa.insert(allocation), made._asdict())
    connection.execute(
        sa.insert(allocation_item),
        [
            {
                "allocation_id": made.allocation_id,
                "vpp_id": vpp_id,
                "resource_id": each.resource_id,
                "type": resources[each.resource_id][0],
                "device_id": resources[each.resource_id][1],
                "outputs": list(each.outputs),
            }
            for each in assignments
        ],
    )
    return made


def one_at_a_time(connection: sa.Connection, vpp_id: str) -> None:
    """Wait for another allocation of the VPP, and let others wait until the commit."""
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(vpp_id, 0))))


def standing_alone_kw(
    connection: sa.Connection, vpp_id: str, besides: Collection[str], now: datetime, bound_kw: float
) -> float:
    """Return what stands for a VPP by people's allocations of up to ``bound_kw`` that nobody approved.

    It is the sum over the resources, but for ``besides``, of their largest absolute setpoint in kW.
    """
    outputs: sa.ScalarResult[list[float]] = connection.execute(
        sa.select(allocation_item.c.outputs)
        .join(allocation, allocation.c.allocation_id == allocation_item.c.allocation_id)
        .where(
            allocation_item.c.vpp_id == vpp_id,
            allocation_item.c.resource_id.not_in(besides),
            *_stands(now),
            allocation.c.approved_by.is_(None),
            allocation.c.requested_by != FOLLOWER,
            allocation.c.total_kw <= bound_kw,
        )
    ).scalars()
    return math.fsum(max(map(abs, each)) for each in outputs)


def apply(
    connection: sa.Connection, made: Allocation, now: datetime, *, by: str, approved_by: str | None = None
) -> list[Command]:
    """Queue the commands of the step that ``now`` lies in and return them by resource; older items end.

    ``Conflict`` where the allocation was applied before or its steps are over.
    """
    step = made.span.step_at(now)
    one_at_a_time(connection, made.vpp_id)
    changed = connection.execute(
        sa.update(allocation)
        .where(allocation.c.allocation_id == made.allocation_id, allocation.c.state == "waiting")
        .values(state="applied", applied_at=now, approved_by=approved_by)
        .returning(allocation.c.allocation_id)
    ).first()
    if changed is None:
        raise Conflict("this allocation was applied already")
    own = allocation_item.c.allocation_id == made.allocation_id
    named = sa.select(allocation_item.c.resource_id).where(own).scalar_subquery()
    connection.execute(
        sa.update(allocation_item)
        .where(
            allocation_item.c.vpp_id == made.vpp_id,
            allocation_item.c.ended_at.is_(None),
            allocation_item.c.commanded_at.is_not(None),
            sa.not_(own),
            allocation_item.c.resource_id.in_(named),
        )
        .values(ended_at=now)
    )
    items = [
        Item._make(row)
        for row in connection.execute(sa.select(*_ITEM).where(own).order_by(allocation_item.c.resource_id))
    ]
    return _command(connection, items, made.span, step, now, by)


def end(connection: sa.Connection, vpp_id: str, resource_ids: Sequence[str], now: datetime) -> None:
    """End what stands for resources that leave their VPP, and withdraw what their devices have not answered.

    Another resource of the same id is asked for nothing.
    """
    ended: sa.ScalarResult[str | None] = connection.execute(
        sa.update(allocation_item)
        .where(
            allocation_item.c.vpp_id == vpp_id,
            allocation_item.c.resource_id.in_(resource_ids),
            allocation_item.c.ended_at.is_(None),
            allocation_item.c.commanded_at.is_not(None),
        )
        .values(ended_at=now)
        .returning(allocation_item.c.command_id)
    ).scalars()
    commands.withdraw(connection, [each for each in ended if each is not None], now, "its resource left the VPP")


def get(connection: sa.Connection, vpp_id: str, allocation_id: str, *, lock: bool = False) -> Allocation:
    """Return one allocation of a VPP, held with ``lock``; ``NotFound`` where there is none."""
    statement = sa.select(*_COLUMNS).where(allocation.c.allocation_id == allocation_id, allocation.c.vpp_id == vpp_id)
    row = connection.execute(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        raise NotFound(f"VPP {vpp_id} has no allocation {allocation_id}")
    return Allocation._make(row)


def page(
    connection: sa.Connection, vpp_id: str, *, limit: int, before: tuple[datetime, str] | None = None
) -> list[Allocation]:
    """Return the allocations of a VPP, newest first, from those before (created_at, id) on."""
    statement = sa.select(*_COLUMNS).where(allocation.c.vpp_id == vpp_id)
    if before is not None:
        statement = statement.where(sa.tuple_(allocation.c.created_at, allocation.c.allocation_id) < sa.tuple_(*before))
    newest = statement.order_by(allocation.c.created_at.desc(), allocation.c.allocation_id.desc()).limit(limit)
    return [Allocation._make(row) for row in connection.execute(newest)]


def items(connection: sa.Connection, allocation_id: str) -> list[Item]:
    """Return the items of an allocation, by resource."""
    rows = connection.execute(
        sa.select(*_ITEM)
        .where(allocation_item.c.allocation_id == allocation_id)
        .order_by(allocation_item.c.resource_id)
    )
    return [Item._make(row) for row in rows]


def standing(connection: sa.Connection, vpp_id: str, now: datetime) -> dict[str, Standing]:
    """Return what stands for each resource of a VPP at ``now``, by resource id."""
    other = _override(now).subquery("override").lateral()
    rows = connection.execute(
        sa.select(*_ITEM, command.c.state.label("command_state"), command.c.reason, other.c.kind_of, other.c.kw)
        .select_from(
            allocation_item.join(allocation, allocation.c.allocation_id == allocation_item.c.allocation_id)
            .outerjoin(command, command.c.command_id == allocation_item.c.command_id)
            .outerjoin(other, sa.true())
        )
        .where(allocation_item.c.vpp_id == vpp_id, *_stands(now))
    )
    return {
        row.resource_id: Standing(
            Item._make(row[: len(_ITEM)]), row.command_state, row.reason, row.kw, row.kind_of is not None
        )
        for row in rows
    }


def advance(connection: sa.Connection, now: datetime) -> int:
    """Command the next step of every allocation whose time has come, end those that are over; return how many items.

    Devices that fell back, that a person commands meanwhile, or that left the VPP are left alone. Safe beside others
    that do the same.
    """
    over = allocation.c.starts_at + allocation.c.steps * _minutes(allocation.c.step_minutes) <= now
    changed = connection.execute(
        sa.update(allocation_item)
        .where(
            allocation_item.c.allocation_id == allocation.c.allocation_id,
            allocation_item.c.ended_at.is_(None),
            allocation_item.c.step.is_not(None),
            over,
        )
        .values(ended_at=now)
    ).rowcount
    began = sa.func.floor(
        sa.extract("epoch", sa.literal(now) - allocation.c.starts_at) / (60 * allocation.c.step_minutes)
    )
    rows = connection.execute(
        sa.select(*_ITEM, allocation.c.starts_at, allocation.c.step_minutes, allocation.c.steps)
        .select_from(allocation_item.join(allocation, allocation.c.allocation_id == allocation_item.c.allocation_id))
        .where(
            *_stands(now),
            allocation_item.c.fallback_at.is_(None),
            _is_resource(),
            allocation_item.c.step < began,
            ~sa.exists(_override(now)),
        )
        .order_by(allocation_item.c.allocation_id, allocation_item.c.resource_id)
        .limit(_BATCH)
        .with_for_update(skip_locked=True, of=allocation_item)
    ).all()
    spans: dict[Span, list[Item]] = {}
    for row in rows:
        spans.setdefault(Span(*row[len(_ITEM) :]), []).append(Item._make(row[: len(_ITEM)]))
    for span, due in spans.items():
        _command(connection, due, span, span.step_at(now), now, FOLLOWER)
    return int(changed) + len(rows)


def fall_back(connection: sa.Connection, now: datetime, watchdog: timedelta) -> list[Item]:
    """Queue the safe setpoint of every device that follows an allocation and fell silent; return what fell back.

    A device is heard by its readings and its answers. It is silent after ``watchdog``; one that does not report its
    present power, after two of its intervals where that is longer.
    """
    patience = sa.case(
        (
            sa.exists().where(
                _reports.c.device_id == allocation_item.c.device_id,
                _reports.c.kind == "state",
                _reports.c.metric == "power",
            ),
            sa.literal(watchdog),
        ),
        else_=sa.func.greatest(sa.literal(watchdog), _minutes(_SILENT_INTERVALS * device.c.interval_minutes)),
    )
    since = sa.literal(now) - patience
    spoke = sa.exists().where(
        series.c.device_id == allocation_item.c.device_id,
        reading.c.series_id == series.c.series_id,
        # Clocks differ; the day's partitions are all that is looked at.
        reading.c.ts > now - timedelta(days=1),
        reading.c.received_at > since,
    )
    answered = sa.exists().where(
        command.c.device_id == allocation_item.c.device_id,
        command.c.updated_at > since,
        command.c.state.in_(("accepted", "done", "rejected")),
    )
    rows = connection.execute(
        sa.select(
            *_ITEM, vpp_resource.c.parameters, allocation.c.starts_at, allocation.c.step_minutes, allocation.c.steps
        )
        .select_from(
            allocation_item.join(allocation, allocation.c.allocation_id == allocation_item.c.allocation_id)
            .join(device, device.c.device_id == allocation_item.c.device_id)
            .join(
                vpp_resource,
                sa.and_(
                    vpp_resource.c.vpp_id == allocation_item.c.vpp_id,
                    vpp_resource.c.resource_id == allocation_item.c.resource_id,
                    vpp_resource.c.device_id == allocation_item.c.device_id,
                ),
            )
        )
        .where(
            *_stands(now),
            allocation_item.c.fallback_at.is_(None),
            # It gets its time from the first command on, not from each: steps may be short.
            allocation.c.applied_at < since,
            ~spoke,
            ~answered,
        )
        .order_by(allocation_item.c.allocation_id, allocation_item.c.resource_id)
        .limit(_BATCH)
        .with_for_update(skip_locked=True, of=allocation_item)
    ).all()
    ends: dict[datetime, list[Item]] = {}
    for row in rows:
        item, (parameters, *span) = Item._make(row[: len(_ITEM)]), row[len(_ITEM) :]
        safe = safe_setpoint(item.type, item.setpoint_kw, parameters)
        end = min(Span(*span).end, now + _LONGEST)
        ends.setdefault(end, []).append(item._replace(safe_kw=safe, fallback_at=now))
    fallen = []
    for end, due in ends.items():
        wanted = {str(each.device_id): instruction("setpoint", each.setpoint_kw, "kW") for each in due}
        queued = commands.enqueue_all(connection, wanted, requested_by=WATCHDOG, now=now, valid_until=end)
        fallen += [each._replace(command_id=queued[str(each.device_id)].command_id) for each in due]
    _note(connection, fallen, now)
    return fallen


def _command(
    connection: sa.Connection, chosen: Iterable[Item], span: Span, step: int, now: datetime, by: str
) -> list[Command]:
    """Queue the commands of one step and note them; items without a device are noted as begun."""
    last = step + 1 == span.steps
    until = min(span.step_start(step + 1) + (timedelta() if last else _OVERLAP), now + _LONGEST)
    listed = list(chosen)
    wanted: dict[str, Instruction] = {
        each.device_id: instruction("setpoint", each.outputs[step], "kW")
        for each in listed
        if each.device_id is not None
    }
    queued = commands.enqueue_all(connection, wanted, requested_by=by, now=now, valid_until=until)
    _note(
        connection,
        [
            each._replace(step=step, command_id=queued[each.device_id].command_id if each.device_id else None)
            for each in listed
        ],
        now,
    )
    return [queued[each.device_id] for each in listed if each.device_id is not None]


def _note(connection: sa.Connection, changed: Sequence[Item], now: datetime) -> None:
    """Keep how far items are that were commanded at ``now``."""
    if not changed:
        return
    names = ("step", "command_id", "safe_kw", "fallback_at")
    connection.execute(
        sa.update(allocation_item)
        .where(
            allocation_item.c.allocation_id == sa.bindparam("of_allocation"),
            allocation_item.c.resource_id == sa.bindparam("of_resource"),
        )
        .values(commanded_at=now, **{name: sa.bindparam(f"new_{name}") for name in names}),
        [
            {
                "of_allocation": each.allocation_id,
                "of_resource": each.resource_id,
                **{f"new_{name}": getattr(each, name) for name in names},
            }
            for each in changed
        ],
    )


def _is_resource() -> sa.ColumnElement[bool]:
    """Whether the item's device is still that of its resource: one that left is commanded no more."""
    return sa.exists().where(
        vpp_resource.c.vpp_id == allocation_item.c.vpp_id,
        vpp_resource.c.resource_id == allocation_item.c.resource_id,
        vpp_resource.c.device_id == allocation_item.c.device_id,
    )


def _stands(now: datetime) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        allocation.c.state == "applied",
        allocation_item.c.ended_at.is_(None),
        allocation.c.starts_at + allocation.c.steps * _minutes(allocation.c.step_minutes) > now,
    )


def _override(now: datetime) -> sa.Select[Any]:
    """Return the newest valid command that somebody gave the item's device after the item's own."""
    return (
        sa.select(
            _newer.c.payload["type"].astext.label("kind_of"),
            sa.cast(_newer.c.payload["value"].astext, sa.Float).label("kw"),
        )
        .where(
            _newer.c.device_id == allocation_item.c.device_id,
            _newer.c.kind == "command",
            _newer.c.created_at > allocation_item.c.commanded_at,
            _newer.c.requested_by.not_in((FOLLOWER, WATCHDOG)),
            _newer.c.valid_until > now,
            _newer.c.state.not_in(("rejected", "expired")),
        )
        .order_by(_newer.c.created_at.desc())
        .limit(1)
        .correlate(allocation_item)
    )


def _minutes(column: sa.ColumnElement[int]) -> sa.ColumnElement[timedelta]:
    return sa.func.make_interval(0, 0, 0, 0, 0, column, type_=sa.Interval())
