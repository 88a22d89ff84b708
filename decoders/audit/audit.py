"""`audit`: every rule over a State."""

from itertools import islice

from nestscope.decoders.audit import chains, guests, host, legal, readings, shadow
from nestscope.decoders.audit.finding import INFO, Finding, Found, Rule
from nestscope.decoders.audit.view import StateView
from nestscope.decoders.state import State

__all__ = ["MAX_TOLD", "RULES", "Finding", "Rule", "audit"]

MAX_TOLD = 1000
"""Findings of one rule that are listed; one more says that there are others."""

RULES: tuple[Rule, ...] = (
    shadow.leaf_has_entry,
    shadow.leaf_maps_host_page,
    shadow.leaf_rights_within_host,
    shadow.leaf_rc_within_host,
    chains.chain_has_its_form,
    chains.no_entry_is_zero,
    chains.entry_is_a_page,
    chains.entries_differ,
    readings.reserved_bits_are_zero,
    readings.nodes_are_aligned,
    readings.nodes_are_in_linear_map,
    readings.list_has_its_tail,
    readings.list_ends,
    guests.vcpu_uses_idr,
    guests.idr_holds_reference,
    guests.lpid_fits_entry,
    guests.shadow_lpid_is_unique,
    guests.shadow_tree_is_unique,
    guests.partition_table_leads_to_tree,
    readings.idr_key_is_the_guests,
    shadow.page_is_the_vms,
    shadow.leaf_within_host_leaf,
    shadow.attributes_are_the_hosts,
    host.leaf_within_memslot,
    host.logging_slot_has_base_pages,
    host.leaf_has_no_reserved_bits,
    host.leaf_page_is_aligned,
    readings.table_has_one_parent,
    readings.table_can_be,
    host.chain_at_leaf_start,
    host.chain_has_host_leaf,
    readings.chain_can_be_walked,
    legal.entries_are_in_use,
    legal.chains_are_alike,
    legal.vm_is_at_rest,
)
"""All rules, in the order in which they are told."""


def audit(
    state: State, *, rc_by_hardware: bool | None = None, rules: tuple[Rule, ...] = RULES
) -> list[Finding]:
    """Return what is wrong with a State, rule by rule.

    What the State does not know is never called broken: a gap suspends the rules that
    would read it as an absence. A VM whose `mmu_lock` is held is not judged.

    `rc_by_hardware`: the hardware writes R and C itself, into the shadow leaf only (QEMU
    up to 8.1), so I4 is not checked. None: not known; a broken I4 is then only worth
    knowing ("info").
    """
    view = StateView.of(state)
    findings: list[Finding] = []
    for rule in rules:
        if rule.id == "I4" and rc_by_hardware:
            continue
        told = rule.check(view)
        listed = [rule.finding(found) for found in islice(told, MAX_TOLD)]
        if next(told, None) is not None:
            listed.append(rule.finding(Found("further ones are not listed")))
        if rule.id == "I4" and rc_by_hardware is None:
            listed = [finding._replace(severity=INFO) for finding in listed]
        findings += listed
    return findings
