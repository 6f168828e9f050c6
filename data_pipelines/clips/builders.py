"""Builds the processing graph of one video, with the phases and builders of DMVR.

A record is parsed, its frames are sampled, decoded and preprocessed; batches are postprocessed.
Each phase is a list of named steps: users can insert, replace or remove steps by name. The
builders have the interface of DMVR's builders (github.com/google-deepmind/dmvr, `dmvr.builders`),
so a step written for one works with the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# TensorFlow only loads data; it must not take the accelerator's memory from JAX. If the program
# has already used a GPU with TensorFlow, this raises an error, and nothing changes.
with contextlib.suppress(RuntimeError):
  tf.config.set_visible_devices([], "GPU")

Features = dict[str, Any]  # feature name → tensor

# Feature names, the same as in DMVR; steps use these names, not the keys of the records.
IMAGE = "image"
LABEL = "label"


@dataclasses.dataclass(frozen=True)
class Step:
  """One function of a phase.

  Attributes:
    fn_name: name, unique in its phase.
    fn: takes one feature, or the dict of all features if `feature_name` is None, and returns it
      transformed. A stateful step also takes a dict that the phase's steps share for one video.
    feature_name: the feature that the step reads and replaces.
    stateful: whether `fn` takes the shared dict.
  """

  fn_name: str
  fn: Callable[..., Any]
  feature_name: str | None = None
  stateful: bool = False


class ParserBuilder:
  """Chooses which features to parse from a serialized `SequenceExample`, and their names."""

  def __init__(self):
    self._outputs: dict[str, tuple[str, Any, bool]] = {}

  def parse_feature(
    self,
    feature_name: str,
    feature_type: Any,
    output_name: str | None = None,
    is_context: bool = False,
  ) -> ParserBuilder:
    """Adds a feature.

    Args:
      feature_name: its key in the record.
      feature_type: `tf.io.FixedLenFeature`, `VarLenFeature` or `FixedLenSequenceFeature`.
      output_name: its name in the features dict; by default its key.
      is_context: True if it is in the record's context, False if in its feature lists.

    Raises:
      ValueError: the output name is taken, or the key is already parsed as another type.
    """
    output_name = output_name or feature_name
    if output_name in self._outputs:
      raise ValueError(f"output name {output_name!r} is already taken")
    for name, kind, context in self._outputs.values():
      if (name, context) == (feature_name, is_context) and kind != feature_type:
        raise ValueError(f"feature {feature_name!r} is already parsed as another type")
    self._outputs[output_name] = (feature_name, feature_type, is_context)
    return self

  def build(self) -> Callable[[tf.Tensor], Features]:
    """Returns the parse function, from a serialized record (string `[]`) to features."""
    outputs = dict(self._outputs)
    context = {n: k for n, k, is_context in outputs.values() if is_context}
    lists = {n: k for n, k, is_context in outputs.values() if not is_context}

    def parse(record: tf.Tensor) -> Features:
      context_values, list_values = tf.io.parse_single_sequence_example(record, context, lists)
      return {
        out: (context_values if is_context else list_values)[name]
        for out, (name, _, is_context) in outputs.items()
      }

    return parse


class StepsBuilder:
  """An editable list of steps; every editing method returns the builder."""

  def __init__(self):
    self._steps: list[Step] = []
    self._unnamed = 0

  def add_fn(
    self,
    fn: Callable[..., Any],
    feature_name: str | None = None,
    fn_name: str | None = None,
    stateful: bool = False,
    add_before_fn_name: str | None = None,
  ) -> StepsBuilder:
    """Appends a step, or inserts it before `add_before_fn_name`; see `Step` for the arguments.

    Raises:
      ValueError: the name is taken, or there is no step to insert before.
    """
    if fn_name is None:
      fn_name = f"fn_{self._unnamed}"
      self._unnamed += 1
    if fn_name in self._names():
      raise ValueError(f"step name {fn_name!r} is taken")
    place = self._find(add_before_fn_name) if add_before_fn_name else len(self._steps)
    self._steps.insert(place, Step(fn_name, fn, feature_name, stateful))
    return self

  def remove_fn(self, fn_name: str) -> StepsBuilder:
    """Removes the step of that name, if there is one."""
    self._steps = [s for s in self._steps if s.fn_name != fn_name]
    return self

  def replace_fn(self, fn_name: str, fn: Callable[..., Any]) -> StepsBuilder:
    """Replaces the function of a step; its place, feature and statefulness stay.

    Raises:
      ValueError: there is no such step.
    """
    place = self._find(fn_name)
    self._steps[place] = dataclasses.replace(self._steps[place], fn=fn)
    return self

  def reset(self) -> StepsBuilder:
    """Removes every step."""
    self._steps = []
    return self

  def get_summary(self) -> list[Step]:
    """The steps, in order."""
    return list(self._steps)

  def build(self) -> Callable[[Features], Features]:
    """The phase as one function; later edits of the builder do not change it."""
    steps = tuple(self._steps)

    def run(features: Features) -> Features:
      features = dict(features)
      state: dict[str, Any] = {}
      for step in steps:
        extra = (state,) if step.stateful else ()
        if step.feature_name:
          features[step.feature_name] = step.fn(features[step.feature_name], *extra)
        else:
          features = step.fn(features, *extra)
      return features

    return run

  def _names(self) -> list[str]:
    return [s.fn_name for s in self._steps]

  def _find(self, fn_name: str) -> int:
    if fn_name not in self._names():
      raise ValueError(f"no step {fn_name!r}; there are {', '.join(self._names()) or 'none'}")
    return self._names().index(fn_name)


class SamplerBuilder(StepsBuilder):
  """Steps that choose frames while they are still encoded."""


class DecoderBuilder(StepsBuilder):
  """Steps that turn encoded features into numbers."""


class PreprocessorBuilder(StepsBuilder):
  """Steps on the decoded features of one video."""


class PostprocessorBuilder(StepsBuilder):
  """Steps on a batch."""


@dataclasses.dataclass
class Graph:
  """The builders of all phases, with the attribute names of DMVR's factories."""

  parser_builder: ParserBuilder = dataclasses.field(default_factory=ParserBuilder)
  sampler_builder: SamplerBuilder = dataclasses.field(default_factory=SamplerBuilder)
  decoder_builder: DecoderBuilder = dataclasses.field(default_factory=DecoderBuilder)
  preprocessor_builder: PreprocessorBuilder = dataclasses.field(default_factory=PreprocessorBuilder)
  postprocessor_builder: PostprocessorBuilder = dataclasses.field(
    default_factory=PostprocessorBuilder
  )

  def build(self) -> Callable[[Features], Features]:
    """One function that samples, decodes and preprocesses the parsed features of a video."""
    phases = [
      builder.build()
      for builder in (self.sampler_builder, self.decoder_builder, self.preprocessor_builder)
    ]

    def run(features: Features) -> Features:
      for phase in phases:
        features = phase(features)
      return features

    return run
