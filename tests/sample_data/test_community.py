from energy_cloud_dagster import sample_data
from energy_cloud_dagster.adapters.opcua import read_tag_map
from energy_cloud_dagster.domain.readings import convert
from energy_cloud_dagster.sample_data.community import Community, community


def test_every_reference_leads_somewhere() -> None:
    seoul = community()
    regions = {region.region_id for region in seoul.regions}
    participants = {participant.participant_id for participant in seoul.participants}
    assert {region.market_id for region in seoul.regions} == {market.market_id for market in seoul.markets}
    for device in seoul.devices:
        assert device.region_id in regions
        assert device.participant_id is None or device.participant_id in participants
        assert seoul.device(device.device_id) is device
    for vpp in seoul.vpps:
        assert vpp.participant_id in participants
        for resource in vpp.resources:
            assert resource.device_id is None or seoul.device(resource.device_id).participant_id == vpp.participant_id


def test_keys_are_unique() -> None:
    seoul: Community = community()
    keys = [played.key for played in seoul.all_series()]
    assert len(keys) == len(set(keys))
    assert len({device.device_id for device in seoul.devices}) == len(seoul.devices)


def test_intervals_are_those_of_the_sample_series() -> None:
    for device, series in community().all_series():
        if series.sample is not None:
            assert device.interval_minutes == sample_data.interval_minutes(series.sample)


def test_tags_and_opcua_devices_match() -> None:
    tags = read_tag_map()
    played = {owned.key: owned.series.unit for owned in community().all_series() if owned.device.protocol == "opcua"}
    assert {(tag.device, tag.metric) for tag in tags} == set(played)
    for tag in tags:
        assert convert(1.0, tag.unit, played[tag.device, tag.metric]) == 1.0
