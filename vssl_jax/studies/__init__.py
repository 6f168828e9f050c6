"""Studies: tables of a paper, made by one command; `study.Study` says what one consists of."""

from vssl_jax.studies.study import PROBED as PROBED
from vssl_jax.studies.study import Curve as Curve
from vssl_jax.studies.study import Score as Score
from vssl_jax.studies.study import Setting as Setting
from vssl_jax.studies.study import Study as Study
