"""Tables of labelled radiographs, made from public collections, and folds that keep a patient on one side.

A data set is a manifest CSV with the columns ``file`` (path below the manifest's folder), ``label`` and
``group`` (images of one patient, or near copies of one another, share a group).
"""

from cxnet.dataset.duplicates import (
    THRESHOLD,
    Duplicate,
    NearDuplicates,
    Progress,
    near_duplicates,
    similar_pairs,
    thumbnail,
)
from cxnet.dataset.importing import ImportResult, import_dataset
from cxnet.dataset.layouts import LAYOUTS, Skipped
from cxnet.dataset.manifest import (
    check_groups,
    dataset_checksum,
    grouped_folds,
    join_groups,
    read_manifest,
    write_manifest,
)

__all__ = [
    "LAYOUTS",
    "THRESHOLD",
    "Duplicate",
    "ImportResult",
    "NearDuplicates",
    "Progress",
    "Skipped",
    "check_groups",
    "dataset_checksum",
    "grouped_folds",
    "import_dataset",
    "join_groups",
    "near_duplicates",
    "read_manifest",
    "similar_pairs",
    "thumbnail",
    "write_manifest",
]
