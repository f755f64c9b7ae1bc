# pragma version 0.4.3
# pragma evm-version cancun
"""
@title EnergyExchange
@license Apache-2.0
@notice Settles metered energy and money between the participants of a market, one batch for each hour of delivery
        and revision, and anchors the Merkle root of the batch's trades and their evidence.
@dev Energy and money are in 10**18 parts of a kWh and of the market's currency unit. Positive energy was injected,
     positive money was earned; both sum to zero over a batch, so the exchange neither makes nor keeps anything.
     A batch is one transaction and atomic. Larger batches will come in parts under the same batch id: the packed
     stamp keeps 96 bits free for their count and progress.
"""


# -- types and constants

struct Batch:
    merkle_root: bytes32
    market: bytes32
    delivery_start: uint64
    revision: uint32
    settled_at: uint64


struct StoredBatch:
    merkle_root: bytes32
    market: bytes32
    # delivery_start | settled_at << 64 | revision << 128: three slots for a batch instead of five.
    stamp: uint256


MAX_PARTICIPANTS: public(constant(uint256)) = 128


# -- events

event BatchSettled:
    batch_id: indexed(bytes32)
    market: indexed(bytes32)
    delivery_start: indexed(uint64)
    revision: uint32
    merkle_root: bytes32
    participants: uint256


event PositionSettled:
    batch_id: indexed(bytes32)
    participant: indexed(address)
    energy: int256
    money: int256


event SettlerChanged:
    settler: indexed(address)


event OwnerChanged:
    owner: indexed(address)


# -- state

owner: public(address)
settler: public(address)
energy_balance: public(HashMap[address, int256])
money_balance: public(HashMap[address, int256])
_batches: HashMap[bytes32, StoredBatch]


@deploy
def __init__(settler: address):
    """
    @notice The deployer becomes the owner.
    @param settler The account that may settle.
    """
    assert settler != empty(address), "exchange: settler is empty"
    self.owner = msg.sender
    self.settler = settler
    log OwnerChanged(owner=msg.sender)
    log SettlerChanged(settler=settler)


# -- external functions

@external
def set_settler(settler: address):
    """
    @notice Name the account that may settle.
    @param settler Never empty.
    """
    assert msg.sender == self.owner, "exchange: caller is not the owner"
    assert settler != empty(address), "exchange: settler is empty"
    self.settler = settler
    log SettlerChanged(settler=settler)


@external
def transfer_ownership(owner: address):
    """
    @notice Hand the contract to another owner.
    @param owner Never empty.
    """
    assert msg.sender == self.owner, "exchange: caller is not the owner"
    assert owner != empty(address), "exchange: owner is empty"
    self.owner = owner
    log OwnerChanged(owner=owner)


@external
def settle(
    batch_id: bytes32,
    market: bytes32,
    delivery_start: uint64,
    revision: uint32,
    merkle_root: bytes32,
    participants: DynArray[address, MAX_PARTICIPANTS],
    energy: DynArray[int256, MAX_PARTICIPANTS],
    money: DynArray[int256, MAX_PARTICIPANTS],
):
    """
    @notice Book one batch of net positions and anchor its Merkle root. A batch id is accepted once.
    @dev Participants come in strictly ascending order, which keeps duplicates and the empty address out.
    @param batch_id Derived from market, hour and revision.
    @param market The market's name in UTF-8, padded with zeros on the right.
    @param delivery_start Start of the hour of delivery, in seconds of Unix time.
    @param revision 0 for the first settlement of the hour, then one more for each true-up.
    @param merkle_root Root over the batch's trades and their evidence.
    @param participants Accounts that hold a position.
    @param energy Net energy of each account, in 10**18 per kWh; injected energy is positive.
    @param money Net money of each account, in 10**18 per currency unit; earned money is positive.
    """
    assert msg.sender == self.settler, "exchange: caller is not the settler"
    assert merkle_root != empty(bytes32), "exchange: root is empty"
    assert self._batches[batch_id].merkle_root == empty(bytes32), "exchange: batch is already settled"
    assert len(energy) == len(participants), "exchange: lengths differ"
    assert len(money) == len(participants), "exchange: lengths differ"

    energy_sum: int256 = 0
    money_sum: int256 = 0
    previous: uint160 = 0
    for i: uint256 in range(len(participants), bound=MAX_PARTICIPANTS):
        participant: address = participants[i]
        number: uint160 = convert(participant, uint160)
        assert number > previous, "exchange: participants not ascending"
        previous = number
        energy_sum += energy[i]
        money_sum += money[i]
        if energy[i] != 0:
            self.energy_balance[participant] += energy[i]
        if money[i] != 0:
            self.money_balance[participant] += money[i]
        log PositionSettled(batch_id=batch_id, participant=participant, energy=energy[i], money=money[i])
    assert energy_sum == 0, "exchange: energy does not sum to zero"
    assert money_sum == 0, "exchange: money does not sum to zero"

    self._batches[batch_id] = StoredBatch(
        merkle_root=merkle_root,
        market=market,
        stamp=(
            convert(delivery_start, uint256)
            | (block.timestamp & convert(max_value(uint64), uint256)) << 64
            | convert(revision, uint256) << 128
        ),
    )
    log BatchSettled(
        batch_id=batch_id,
        market=market,
        delivery_start=delivery_start,
        revision=revision,
        merkle_root=merkle_root,
        participants=len(participants),
    )


@external
@view
def batches(batch_id: bytes32) -> Batch:
    """
    @notice Return a settled batch; its root is empty where the id is unknown.
    @param batch_id Derived from market, hour and revision.
    @return Root, market, start of delivery, revision, and the time of the settling block.
    """
    stored: StoredBatch = self._batches[batch_id]
    seconds: uint256 = convert(max_value(uint64), uint256)
    return Batch(
        merkle_root=stored.merkle_root,
        market=stored.market,
        delivery_start=convert(stored.stamp & seconds, uint64),
        revision=convert((stored.stamp >> 128) & convert(max_value(uint32), uint256), uint32),
        settled_at=convert((stored.stamp >> 64) & seconds, uint64),
    )
