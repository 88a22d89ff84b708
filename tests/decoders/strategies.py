"""Hypothesis strategies for States."""

from hypothesis import strategies as st

from nestscope.decoders.state import (
    FORM_LIST,
    FORM_SINGLE,
    Chains,
    KernelInfo,
    Leaves,
    Memslot,
    NestedGuest,
    Problem,
    Running,
    Source,
    State,
    Vm,
)

words = st.integers(0, 2**64 - 1)
unknown_or_word = st.none() | words
lpids = st.integers(0, 0xFFF)
n_gpas = st.integers(0, 2**40 - 1).map(lambda frame: frame << 12)
entries = st.lists(st.tuples(lpids, n_gpas), min_size=1, max_size=5, unique=True)


@st.composite
def chains(draw: st.DrawFn) -> Chains:
    gfns = draw(st.lists(st.integers(0, 2**30), max_size=5, unique=True))
    rows = []
    for gfn in gfns:
        chain = draw(entries)
        rows.append((gfn, FORM_SINGLE if len(chain) == 1 else FORM_LIST, chain))
    return Chains.build(rows)


leaves = st.lists(
    st.tuples(n_gpas, st.sampled_from((12, 16, 21, 30)), words),
    max_size=6,
    unique_by=lambda r: r[0],
).map(Leaves.build)

memslots = st.builds(
    Memslot,
    id=st.integers(0, 511),
    base_gfn=st.integers(0, 2**40),
    npages=st.integers(1, 2**31),
    userspace_addr=unknown_or_word,
    flags=st.none() | st.integers(0, 7),
    rmap_array=unknown_or_word,
    rmap=chains(),
)

nested_guests = st.builds(
    NestedGuest,
    l1_lpid=lpids,
    shadow_lpid=st.none() | lpids,
    refcnt=st.none() | st.integers(0, 9),
    l1_gr_to_hr=unknown_or_word,
    process_table=unknown_or_word,
    shadow_pgtable=unknown_or_word,
    leaves=leaves,
    address=unknown_or_word,
    shadow_pate=st.none() | st.tuples(words, words),
)

vms = st.builds(
    Vm,
    kvm=words,
    lpid=st.none() | lpids,
    radix=st.none() | st.booleans(),
    mmu_lock_held=st.none() | st.booleans(),
    l1_ptcr=unknown_or_word,
    memslots=st.lists(memslots, max_size=3).map(tuple),
    host_leaves=leaves,
    nested=st.lists(nested_guests, max_size=3).map(tuple),
    running=st.none()
    | st.lists(st.builds(Running, st.integers(0, 2047), words), max_size=3).map(tuple),
    orphans=st.lists(nested_guests, max_size=2).map(tuple),
)

problems = st.builds(
    Problem,
    path=st.text(),
    message=st.text(),
    address=unknown_or_word,
    kind=st.none() | st.sampled_from(("chain-cycle", "idr-key")),
    word=unknown_or_word,
)

states = st.builds(
    State,
    source=st.builds(Source, kind=st.text(), name=st.text()),
    kernel=st.builds(
        KernelInfo, release=st.none() | st.text(), page_shift=st.sampled_from((None, 12, 16))
    ),
    vms=st.lists(vms, max_size=2).map(tuple),
    problems=st.lists(problems, max_size=2).map(tuple),
)
