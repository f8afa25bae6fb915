"""Stored audits of whole runs: how often a right answer was given for a wrong reason, and what may tempt a network.

:mod:`cxnet.batch` writes beside a run ``audit-fast.parquet`` or ``audit-full.parquet`` and a ``.json`` of the same
name. The table has one row a case:

========================== ===========================================================================
case, file, fold           as the run has them; fold is null for files that belong to no run
group, source, view        as the run has them, else null
true                       null where it is not known
predicted                  the class that the audited network calls, which is the one explained
probability <class>
in_lung, lift, z …         figures of the Grad-CAM map, see :data:`FIGURES`; null where `map_reason` says why
zone <zone>, area <zone>   share of the map's energy, and of the picture, in each zone outside the lungs
lungs_ok, lungs_reasons    whether the lung mask passed its gate
mean_grey …                properties of the picture, see :data:`PROPERTIES`
model, model_sha256        which network was asked
error                      why there are no figures, as a sentence; null where all went well
evidence <test> *          in logits; null where a test could not be made
usual evidence *           logits over chance that the network's answers usually have
strength *                 largest evidence over its line: from 1 on a test turned
background_probability *   of the predicted class, with the lungs' hull hidden; median over the fills
lungs_probability *        of the predicted class, with all but the lungs' hull hidden; median over the fills
verdict *, facts *         of :mod:`cxnet.verdict`; facts as a JSON list
thresholds_version *
lime_r2 †                  fit of LIME's surrogate: R² on held-out samples, or its own where there are none
lime_samples †             perturbed pictures that LIME took
lime_stable †              whether its leading superpixels had settled
lime_in_lung/_lift/_z †    the figures of LIME's map, its positive part; null where `lime_reason` † says why
cam_lime †                 rank correlation of Grad-CAM and LIME over the superpixels, -1 to 1: the lower, the
                           less they agree; null where `cam_lime_reason` † says why
cam_lime_chance/_blob †    95 % of randomly shifted copies of Grad-CAM's map agree less; agreement of a centred blob
lime_vsi †                 VSI of LIME's five leading superpixels over the seeds, 0 to 1; with two seeds or more
lime_csi †                 CSI of its weights over the seeds: share whose 95 % intervals overlap; likewise
========================== ===========================================================================

Those marked * are in full audits only, those marked † only in audits with ``--lime``, whose ``.json`` says
`lime_seeds`. There the map key turns only when every map that can be read, Grad-CAM's and LIME's, lies in the lungs no
more than by chance, so verdicts with and without LIME are not to be compared. Nothing here imports a deep-learning framework.

Reading (`stored`), rates and pairs of runs (`rates`), zones and properties of the pictures (`looks`), agreement of the two
maps (`agreement`).
"""

from __future__ import annotations

from cxnet.wrong_reasons.agreement import Agreement, agreements
from cxnet.wrong_reasons.looks import PROPERTIES, SEPARATES_FROM, PropertyAuc, property_aucs, zone_energies
from cxnet.wrong_reasons.rates import ANSWERS, UNDETERMINED, WRONG, PairedReasons, Rate, compare, rate, rates
from cxnet.wrong_reasons.stored import (
    FIGURES,
    NO_FINDING,
    SCHEMA,
    TIERS,
    StoredAudit,
    Tier,
    audits_of,
    names_finding,
    open_audit,
    right_answers,
    withheld,
)

__all__ = [
    "ANSWERS",
    "FIGURES",
    "NO_FINDING",
    "PROPERTIES",
    "SCHEMA",
    "SEPARATES_FROM",
    "TIERS",
    "UNDETERMINED",
    "WRONG",
    "Agreement",
    "PairedReasons",
    "PropertyAuc",
    "Rate",
    "StoredAudit",
    "Tier",
    "agreements",
    "audits_of",
    "compare",
    "names_finding",
    "open_audit",
    "property_aucs",
    "rate",
    "rates",
    "right_answers",
    "withheld",
    "zone_energies",
]
