"""What each layer of a model is to be: which heads are stored alike, by which codec, in which basis."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tq_cache.basis import Basis, Needs, by_energy
from tq_cache.codecs import TokenCodec, codec_for
from tq_cache.grammar import GIVEN, STORES, Override, Stores, with_option
from tq_cache.place import place_of
from tq_cache.policy import CachePolicy
from tq_cache.stores import AnyStore
from tq_core import InvalidSpec
from tq_core.device import Device

Floats = NDArray[np.floating]
Heads = list[int]


class Given(NamedTuple):
    """(layers, kv_heads, dim) arrays, each where the policy says `given`; all None where they come from a file."""

    key_means: Floats | None = None
    key_energies: Floats | None = None
    value_energies: Floats | None = None


class SidePlan(NamedTuple):
    """Keys or values of heads that are stored alike. `known`: what of their basis is given; `place`: where they lie."""

    lanes: int
    dim: int
    codec: TokenCodec
    needs: Needs
    known: Basis
    place: Device


class GroupPlan(NamedTuple):
    """Heads of a layer that are stored alike, keys and values; `heads` None means all of the layer."""

    heads: Heads | None
    keys: SidePlan
    values: SidePlan


class LayerPlan(NamedTuple):
    """One layer: its groups in order of their first head. `waits`: tokens that have to come before any is quantized."""

    lanes: int
    sinks: int
    window: int
    waits: int
    groups: tuple[GroupPlan, ...]


class Planner:
    """Plans layers that share rotations and codebooks: one codec for each store and dim."""

    def __init__(
        self, policy: CachePolicy, layers: int, kv_heads: int, dims: tuple[int, int], seed: int, backend: str
    ) -> None:
        self.policy, self.layers, self.kv_heads, self.dims = policy, layers, kv_heads, dims
        self.seed, self.backend, self.place = seed, backend, place_of(backend)
        self._codecs: dict[tuple[AnyStore, int], TokenCodec] = {}
        self._alike: dict[tuple[Stores, tuple[Override, ...]], list[tuple[Stores, Heads | None]]] = {}

    def plan(self, layer: int, given: Given, max_tokens: int) -> LayerPlan:
        """The plan of a layer; InvalidSpec where `max_tokens` would evict what is yet to be learned from."""
        own = self.policy.plain(layer)  # for all heads; norms are the model's
        groups = tuple(
            self._group(layer, given, *alike) for alike in zip(self.needs(layer), self.alike(layer), strict=True)
        )
        waits = max(side.needs.tokens for group in groups for side in (group.keys, group.values))
        window = min(own["window"], max_tokens) if max_tokens else own["window"]
        if waits and max_tokens and max_tokens < window + waits:
            raise InvalidSpec(
                f"max_tokens={max_tokens} evicts tokens before {self.policy} has learned from them; it takes "
                f"{window + waits} at least, a window of {window} and {waits} tokens that are quantized together"
            )
        return LayerPlan(self.kv_heads, own["sinks"], window, waits, groups)

    def needs(self, layer: int) -> list[tuple[Needs, Needs]]:
        """What keys and values of each group of a layer must know to encode."""
        own = self.policy.plain(layer)
        return [
            (
                Needs(own["kmean"], own["ksplit"] if keys.channels else 0, keys.channels),
                Needs(0, own["vsplit"] if values.channels else 0, values.channels),
            )
            for (keys, values), _ in self.alike(layer)
        ]

    def alike(self, layer: int) -> list[tuple[Stores, Heads | None]]:
        """The heads of a layer by their stores, in order of the first head of each; None for all of them."""
        base = self.policy.at_boundary(layer, self.layers)
        options = tuple(own for own in self.policy.overrides if own.option in STORES and own.covers_layer(layer))
        if (base, options) not in self._alike:
            self._alike[base, options] = _alike(base, options, self.kv_heads)
        return self._alike[base, options]

    def _group(
        self, layer: int, given: Given, needs: tuple[Needs, Needs], alike: tuple[Stores, Heads | None]
    ) -> GroupPlan:
        stores, heads = alike
        lanes = self.kv_heads if heads is None else len(heads)
        chosen: Any = slice(None) if heads is None else heads
        means, key_energies, value_energies = (None if array is None else array[layer, chosen] for array in given)
        keys, values = needs
        place = self.place
        return GroupPlan(
            heads,
            SidePlan(
                lanes, self.dims[0], self._codec(stores[0], 0), keys, _known(keys, means, key_energies, place), place
            ),
            SidePlan(
                lanes,
                self.dims[1],
                self._codec(stores[1], 1),
                values,
                _known(values, None, value_energies, place),
                place,
            ),
        )

    def _codec(self, store: AnyStore, side: int) -> TokenCodec:
        pair = (store, self.dims[side])
        if pair not in self._codecs:
            self._codecs[pair] = codec_for(*pair, self.policy.norms, self.seed, self.backend)
        return self._codecs[pair]


def _known(needs: Needs, means: Floats | None, energies: Floats | None, place: Device) -> Basis:
    """What is given of a basis, in memory of its own."""
    mean = place.asarray(np.array(means, np.float32)) if needs.mean == GIVEN and means is not None else None
    order = None
    if needs.split == GIVEN and energies is not None:
        order = place.asarray(by_energy(energies.astype(np.float64), needs.channels))
    return Basis(mean, order)


def _alike(base: Stores, options: tuple[Override, ...], kv_heads: int) -> list[tuple[Stores, Heads | None]]:
    """Carry options out on all heads at once: heads have the index of their stores, an option maps indices."""
    known = [base]
    index = np.zeros(kv_heads, np.intp)
    for option in options:
        first, last = option.heads or (0, kv_heads - 1)
        part = index[first : last + 1]
        target = np.arange(len(known))
        for held in np.unique(part):
            changed = with_option(known[held], option.option, option.read)
            if changed not in known:
                known.append(changed)
            target[held] = known.index(changed)
        part[:] = target[part]
    found, firsts = np.unique(index, return_index=True)
    if len(found) == 1:
        return [(known[found[0]], None)]
    order = np.argsort(firsts)
    return [(known[held], np.flatnonzero(index == held).tolist()) for held in found[order]]
