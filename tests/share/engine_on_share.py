"""Runs the engine's own tests on the bad network drive.

`PYTHONPATH=tests/share VERTA_LOCAL_TEST_DRIVE=shim pytest -p engine_on_share tests/store`

Only the engine's own code is on a client of the drive. What a test does by hand (flip a bit, delete a file) it does at
the server, and so do the processes that it starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import shim

import verta_store

ENGINE = str(Path(verta_store.__file__).parent)

# Tests that ask for what this drive does not have: part of the name -> what that is.
ELSEWHERE = {
    "another_system_takes_for_one_are_stored": "names that differ in case",
    "illegal_on_windows_are_stored": "names that Windows does not have",
    "any_folder_comes_back_as_it_was": "names that Windows does not have",
    "names_that_look_like_attacks": "names that Windows does not have",
    "is_stored_under_its_sha256_and_read_only": "modes",
    "files_are_read_only_and_keep_their_executable_bit": "modes",
    "where_there_are_no_links_the_name_is_a_verified_copy": "modes",
    "a_claim_is_read_only": "modes",
    "a_folder_that_workers_copied": "worker processes, which a network drive is not copied to with",
    "what_fails_beside_the_workers": "worker processes, which a network drive is not copied to with",
    "no_memory_for_a_task": "worker processes, which a network drive is not copied to with",
    "no_worker_is_left_of_a_walk": "worker processes, which a network drive is not copied to with",
    "an_error_of_an_early_sync": "one barrier for all of a file system",
    "a_folder_is_stored_where_no_thread": "modes",
    "what_a_worker_left_half_done": "modes",
    "one_worker_that_dies_leaves": "modes",
    "a_python_that_cannot_be_started": "modes",
    "what_was_restored_is_read_only": "modes",
    "the_damaged_is_kept[become_dangling]": "symbolic links",
    "takes_nothing_that_a_record_names[become_dangling]": "symbolic links",
    "a_repair_killed_at_any_step": "links",
    "a_store_can_be_made_where_there_are_no_links_and_no_modes": "case",
    "a_named_blob_is_the_object_itself": "links",
    "name_and_unpack_the_same_object": "links",
    "large_files_are_stored_once": "links",
    "large_files_of_a_living_tree_stay_objects": "links",
    "a_damaged_shared_file": "links",
    "a_dry_run_changes_nothing_and_says": "links",
    "a_blob_of_somebody_else_is_pinned": "links",
    "a_drive_that_says_yes_and_keeps_the_old_time": "links",
    "a_tree_that_was_just_stored_is_known": "fractions of a second in time stamps",
    "a_blob_that_is_met_again_counts_as_new": "fractions of a second in time stamps",
    "naming_a_checked_blob_does_not_make_it_unknown": "fractions of a second in time stamps",
    "a_blob_stored_again_is_read_only_once": "fractions of a second in time stamps",
    "alone_and_without_grace": "fractions of a second in time stamps",
    "takes_in_the_good_copy[in place]": "fractions of a second in time stamps",
    "a_pack_that_was_accepted": "fractions of a second in time stamps",
    "an_idle_writer_lets_go": "fractions of a second in time stamps",
    "a_lease_that_was_torn": "fractions of a second in time stamps",
    "a_writer_at_work_keeps_all": "fractions of a second in time stamps, also in another process",
    "a_writer_that_was_killed": "fractions of a second in time stamps, also in another process",
    "verification_changes_nothing": "a folder that may be looked at without being written to",
    "is_never_poked": "a folder that may be looked at without being written to",
}

if os.environ.get("VERTA_LOCAL_TEST_DRIVE") == "shim":
    share = shim.Share(keeps_appends=False, only_for=ENGINE).install()

    @pytest.fixture(autouse=True)
    def drive(tmp_path: Path) -> Iterator[None]:
        """The test's store lies on the drive; what it logs and its index do not."""
        share.roots[:] = [str(tmp_path / "store")]
        yield
        share.roots[:] = []

    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Leaves out what asks for something that this drive does not have."""
        for item in items:
            for part, lacking in ELSEWHERE.items():
                if part in item.name:
                    item.add_marker(pytest.mark.skip(reason=f"the drive does not have {lacking}"))
