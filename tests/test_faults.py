"""Which tests provoke which fault: a row without a test, or a test that is gone, is seen here."""

from __future__ import annotations

import ast
import re

import pytest

from tests.sources import ROOT

EXTRACT = "activations/test_extract.py"
INTERRUPTION = "activations/test_interruption.py"
DISKS = "activations/test_disks.py"
NUMBERS = "activations/test_numbers.py"
TEMPLATES = "activations/test_templates.py"
MACHINE = "activations/test_store_machine.py"
WORKERS = "activations/test_workers.py"
ARTIFACTS = "test_artifacts.py"
LOAD = "models/test_load.py"
PACKAGED = "models/test_packaged.py"
SOCIAL = "data/test_social_chem.py"
RATINGS = "data/test_ratings.py"
VECTORS = "test_moral_vectors.py"
BAD_INPUT = "cli/test_bad_input.py"
CLI = "cli/test_cli.py"
SCALE = "test_scale.py"
DOWNLOAD = "data/test_download.py"
SAE_TRAIN = "sae/test_train.py"
SAE_LOAD = "sae/test_load.py"
SAE_FEATURES = "sae/test_features.py"

COVERED: dict[str, list[str]] = {
    "F1 killed at any instant, the same command again": [
        f"{INTERRUPTION}::test_killed_at_any_instant_it_continues_to_the_same_bytes",
        f"{INTERRUPTION}::test_killed_at_fifty_instants",
        f"{WORKERS}::test_a_process_that_is_killed_costs_nothing_but_its_time",
        f"{ARTIFACTS}::test_leftovers_of_a_killed_writer_are_removed",
    ],
    "F2 Ctrl-C and SIGTERM": [
        f"{INTERRUPTION}::test_interrupted_it_says_that_the_same_command_continues",
        f"{CLI}::test_interrupted_it_leaves_with_130_and_says_that_the_same_command_continues",
    ],
    "F3 the disk is full in the middle of a shard": [
        f"{DISKS}::test_a_disk_that_is_really_full_costs_one_shard",
        f"{EXTRACT}::test_a_full_disk_keeps_what_is_complete",
        f"{ARTIFACTS}::test_no_space_says_how_much_is_needed",
        f"{DOWNLOAD}::test_a_disk_that_fills_while_unpacking_keeps_the_complete_part",
        f"{PACKAGED}::test_a_full_disk_is_an_error_and_leaves_nothing",
    ],
    "F4 a shard cut by one byte, or empty": [
        f"{ARTIFACTS}::test_a_cut_shard_is_named_and_never_read",
        f"{EXTRACT}::test_only_what_is_damaged_is_computed_again",
        f"{CLI}::test_what_is_damaged_is_mended_by_the_same_command",
    ],
    "F5 one bit flipped in data, header or manifest": [
        f"{ARTIFACTS}::test_one_flipped_bit_anywhere_never_gives_other_numbers",
        f"{EXTRACT}::test_a_damaged_table_is_an_error_and_is_written_again",
        f"{BAD_INPUT}::test_a_damaged_store_is_never_probed",
        f"{MACHINE}::Store.flip_the_manifest",
    ],
    "F6 a shard is missing, foreign or swapped": [
        f"{ARTIFACTS}::test_swapped_missing_and_foreign_shards",
        f"{EXTRACT}::test_swapped_shards_give_an_error_and_never_numbers",
        f"{EXTRACT}::test_a_foreign_file_is_named_and_ignored",
        f"{MACHINE}::Store.swap",
    ],
    "F7 two processes extract the same store": [
        f"{DISKS}::test_of_two_processes_on_one_store_the_second_waits",
        f"{WORKERS}::test_two_processes_make_the_store_of_one",
    ],
    "F8 a lock left by a dead process": [
        f"{DISKS}::test_the_lock_of_a_dead_process_holds_nobody_up",
        f"{DISKS}::test_a_lock_that_is_a_link_never_touches_what_it_leads_to",
    ],
    "F9 other weights under the same name": [
        f"{EXTRACT}::test_other_weights_under_the_same_name_are_refused",
        f"{EXTRACT}::test_whatever_changes_the_bytes_is_in_the_key",
        f"{LOAD}::test_one_changed_weight_changes_what_the_weights_are_and_nothing_else",
        f"{LOAD}::test_another_config_changes_the_identity_and_its_history_does_not",
        f"{LOAD}::test_another_tokenizer_changes_the_identity",
        f"{LOAD}::test_a_model_in_the_hubs_cache_is_read_without_the_network",
        f"{BAD_INPUT}::test_the_store_of_another_model",
    ],
    "F10 BOS policy, padding side, chat template": [
        f"{TEMPLATES}::test_the_side_that_a_tokenizer_pads_on_changes_nothing",
        f"{TEMPLATES}::test_a_tokenizer_that_puts_another_token_in_front_is_another_store",
        f"{TEMPLATES}::test_another_chat_template_is_another_store",
        "models/test_tokens.py::test_a_batch_of_many_equals_many_batches_of_one",
        "models/test_tokens.py::test_trailing_special_tokens_never_count_as_the_last_token",
    ],
    "F11 empty, blank and one-token texts": [
        f"{EXTRACT}::test_empty_blank_and_one_token_texts_stay_masked_and_counted",
        f"{EXTRACT}::test_an_action_of_token_zero_alone_has_no_mean_over_the_action",
        f"{SCALE}::test_blocks_hold_no_numbers_where_a_text_has_none",
    ],
    "F12 a text longer than the context": [
        f"{EXTRACT}::test_longer_texts_are_cut_flagged_and_counted",
        f"{CLI}::test_extract_says_how_many_texts_were_cut",
        "models/test_tokens.py::test_long_texts_are_cut_at_the_end_and_flagged",
    ],
    "F13 invalid UTF-8, NUL, surrogates, bidi, 1 MB": [
        f"{SOCIAL}::test_unusual_texts_are_kept_verbatim",
        f"{SOCIAL}::test_a_text_that_is_none_is_named_by_its_line",
        f"{RATINGS}::test_unusual_items_are_kept_verbatim",
        f"{RATINGS}::test_an_item_that_is_no_text_is_named_by_its_line",
        f"{NUMBERS}::test_unusual_texts_are_read_as_they_are",
    ],
    "F14 duplicates, contradictions, unknown, NaN, off scale, missing": [
        f"{VECTORS}::test_texts_that_repeat_or_contradict_each_other_are_counted",
        f"{VECTORS}::test_strict_refuses_them_with_their_number_and_one_of_them",
        f"{VECTORS}::test_groups_never_straddle_splits",
        f"{BAD_INPUT}::test_strict_leaves_with_one_where_texts_contradict_each_other",
        f"{BAD_INPUT}::test_a_table_with_the_wrong_columns_or_values",
        f"{SOCIAL}::test_bad_input_is_named",
        f"{RATINGS}::test_tables_that_are_refused",
        "data/test_splits.py::test_a_text_that_the_source_spreads_over_splits_ends_in_one",
    ],
    "F15 BOM, semicolons, quotes, formula cells": [
        f"{SOCIAL}::test_separators_byte_order_mark_and_quotes",
        f"{SOCIAL}::test_unusual_texts_are_kept_verbatim",
        f"{SOCIAL}::test_nothing_is_exported_for_a_spreadsheet",
    ],
    "F16 NaN, Inf and the overflow of fp16": [
        f"{NUMBERS}::test_what_is_no_number_names_the_first_layer_and_the_texts",
        f"{NUMBERS}::test_a_live_model_in_fp16_overflows_where_bf16_does_not",
        f"{EXTRACT}::test_not_a_number_names_the_layer_and_the_text",
        f"{LOAD}::test_an_unknown_dtype_is_refused_with_those_that_exist",
        f"{WORKERS}::test_an_error_here_ends_the_others",
    ],
    "F17 a constant or all-zero layer": [
        f"{EXTRACT}::test_a_layer_that_never_varies_is_a_tap_that_did_not_fire",
        f"{EXTRACT}::test_an_input_that_never_varies_is_a_tap_that_did_not_fire",
    ],
    "F18 a loss that is no number, features that are mostly dead": [
        f"{SAE_TRAIN}::test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint",
        f"{SAE_TRAIN}::test_features_that_are_nearly_all_dead_stop_it",
        f"{SAE_TRAIN}::test_killed_it_ends_with_the_weights_of_an_unbroken_run",
    ],
    "F19 an autoencoder of another width, layer, architecture or model": [
        f"{SAE_LOAD}::test_another_layer_is_refused_with_both",
        f"{SAE_LOAD}::test_a_config_of_another_shape_is_refused_with_both",
        f"{SAE_LOAD}::test_an_unknown_architecture_is_refused",
        f"{SAE_FEATURES}::test_another_model_is_refused_with_both_names",
        f"{SAE_FEATURES}::test_states_that_it_doesnt_fit_are_refused",
    ],
    "F20 hostile safetensors": [
        f"{ARTIFACTS}::test_a_hostile_shard_that_its_manifest_vouches_for_is_an_error_at_once",
        f"{LOAD}::test_hostile_weights_are_an_error_at_once_and_take_no_memory",
    ],
    "F21 paths and links out of the store": [
        f"{ARTIFACTS}::test_a_manifest_names_files_of_its_own_folder_only",
        f"{ARTIFACTS}::test_a_shard_that_is_a_link_or_no_file_is_refused",
        f"{DISKS}::test_a_link_out_of_the_store_is_refused_and_replaced",
        f"{LOAD}::test_an_index_that_leads_out_of_the_folder_is_refused",
        f"{DOWNLOAD}::test_a_hostile_archive_is_refused_and_removed",
    ],
    "F22 deep nesting and size": [
        f"{ARTIFACTS}::test_a_manifest_that_is_none_however_deep",
        f"{ARTIFACTS}::test_a_manifest_of_gigabytes_is_never_read",
        f"{LOAD}::test_a_config_that_nests_deeply_is_an_error",
        f"{LOAD}::test_a_config_of_gigabytes_is_never_read",
        "test_faults.py::test_yaml_is_read_in_one_place_and_never_unsafely",
    ],
    "F23 the network is off": [
        f"{LOAD}::test_a_model_in_the_hubs_cache_is_read_without_the_network",
        f"{LOAD}::test_what_the_cache_lacks_is_refused_offline_with_the_way_to_fetch_it",
        f"{LOAD}::test_weights_that_the_cache_lacks_are_named_with_the_way_to_fetch_them",
        f"{DOWNLOAD}::test_no_server_at_all",
    ],
    "F24 places, locales and memory": [
        f"{DISKS}::test_a_home_that_cannot_be_written_is_not_needed_for_a_folder",
        f"{DISKS}::test_a_home_that_cannot_be_written_is_named_where_weights_must_be_unpacked",
        f"{DISKS}::test_a_store_on_a_disk_that_is_read_only",
        f"{DISKS}::test_paths_with_blanks_and_other_scripts_under_another_locale",
        f"{SCALE}::test_a_layer_of_two_gigabytes_is_written_verified_and_read_within_two",
        f"{SCALE}::test_all_layers_of_the_official_size_come_in_shards_that_fit",
        f"{SCALE}::test_blocks_together_are_the_layer",
    ],
}


def names_in(file: str) -> set[str]:
    """Every test of a file, and every rule of a state machine in it."""
    found: set[str] = set()
    for node in ast.parse((ROOT / "tests" / file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)}
    return found


def test_every_fault_has_a_row() -> None:
    assert {row.split()[0] for row in COVERED} == {f"F{n}" for n in range(1, 25)}


@pytest.mark.parametrize("row", COVERED)
def test_a_fault_has_tests_and_they_exist(row: str) -> None:
    assert COVERED[row]
    gone = [
        test for test in COVERED[row] if test.split("::")[1] not in names_in(test.split("::")[0])
    ]
    assert gone == []


def test_yaml_is_read_in_one_place_and_never_unsafely() -> None:
    """Recipes and scopes of certificates, by the safe loader: tests/recipes/test_text.py and
    tests/behavior/pluralism/test_framing.py hold them to that.
    """
    reading = {
        path.relative_to(ROOT / "moralprobe").as_posix()
        for path in (ROOT / "moralprobe").rglob("*.py")
        if "import yaml" in path.read_text("utf-8")
    }
    assert reading == {"recipes/text.py", "behavior/pluralism/scope.py"}
    for path in reading:
        source = (ROOT / "moralprobe" / path).read_text("utf-8")
        assert not re.search(r"yaml\.(load|full_load|unsafe_load|Loader|UnsafeLoader)\(", source)
