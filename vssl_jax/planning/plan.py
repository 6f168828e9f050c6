"""What a run would cost on a machine, from its programs compiled for that machine."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from vssl_jax import methods
from vssl_jax.evaluation import tuned
from vssl_jax.jobs import pretrain
from vssl_jax.methods.base import Method
from vssl_jax.models import cost
from vssl_jax.planning import arithmetic, hlo, stages, traffic
from vssl_jax.planning.machines import Machine
from vssl_jax.training import step as step_lib

# Clips per core-second of the input pipeline: 2 clips of 16 x 224 x 224 per video, from records;
# measured by us, see benchmarks/README.md.
CLIPS_PER_CORE = 55.0
_OUT_OF_MEMORY = re.compile(r"Used ([\d.]+)([KMGT])i?B? of ([\d.]+)([KMGT])")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan(
  config: ConfigDict, machine: Machine, *, videos: int, stage: str = stages.TRAIN
) -> dict[str, Any]:
  """Compiles the train step of a config, or another stage, for a machine; describes the program.

  Args:
    config: any config of pre-training; with `config.checkpoint`, the encoder is the one there.
    machine: see `machines.find`.
    videos: number of training videos, which gives the length of an epoch.
    stage: one of `stages.STAGES`.

  Returns:
    Plain data, see `report.table`. All figures are of one device and one step, if not named
    otherwise. Without enough memory there is no program: only `memory` with `fits` False. Another
    stage than the train step has the entry `stage`.

  Raises:
    UserError: the batch does not divide among the devices, a field is impossible, the checkpoint
      cannot be read, or the config does not have the stage.
  """
  if stage == stages.TRAIN:
    return _step(config, machine, videos)
  if stage in (stages.INIT, stages.RESTORE):
    config, method, program, state, _ = _program(config, machine, videos)
    built, sizes = stages.of_state(stage, config, method, program.tx, state, machine.mesh)
    return _stage(built, stage, config, machine, **sizes)
  config, _ = pretrain.build(methods.resolve(config, None), machine.mesh)
  if stage in stages.STEPS:
    stages.require_encoder(stage, config, machine.mesh)
    config = stages.step_config(stage, config)
    if stage == stages.FINETUNE:
      mesh = tuned.devices(machine.mesh, config.batch_size)
      chips = round(mesh.size * machine.per_device)
      machine = dataclasses.replace(machine, mesh=mesh, chips=chips)
    return _step(config, machine, videos) | {"stage": stage}
  return _stage(stages.build(stage, config, machine, videos), stage, config, machine)


def _stage(
  built: stages.Stage, stage: str, config: ConfigDict, machine: Machine, **sizes: int
) -> dict[str, Any]:
  # Of the network, the first state needs the shapes alone.
  written = arithmetic.flops(built.function, *built.arguments) if stage != stages.INIT else 0
  outcome = sizes | {
    "stage": stage,
    "work": built.work,
    "config": {"name": config.name, "method": config.method, "clips": built.clips},
    "machine": _of_machine(machine) | {"devices": built.devices * built.programs},
    "flops": {"program": written / built.devices},
  }
  return _compile(built.function, built.arguments, outcome, machine)


def _of_machine(machine: Machine) -> dict[str, Any]:
  return {
    "topology": machine.name,
    "chips": machine.chips,
    "devices": machine.devices,
    "hosts": machine.hosts,
  }


def _program(
  config: ConfigDict, machine: Machine, videos: int
) -> tuple[ConfigDict, Method, step_lib.Program, Any, Any]:
  """The config, its method, its program, and the shapes of its state and of a batch."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.steps_per_epoch = max(1, videos // config.batch_size)
  config = methods.resolve(config, None)
  config, method = pretrain.build(config, machine.mesh)
  program = step_lib.assemble(config, method, machine.mesh, config.steps_per_epoch)
  state, batch = step_lib.abstract(method, program.tx, machine.mesh, config.batch_size)
  return config, method, program, state, batch


def _step(config: ConfigDict, machine: Machine, videos: int) -> dict[str, Any]:
  config, method, program, state, batch = _program(config, machine, videos)
  clips = config.batch_size * (config.data.clips if method.encoder else 1)
  outcome: dict[str, Any] = {
    "config": {"name": config.name, "method": config.method, "batch_size": config.batch_size}
    | {"accumulate": config.accumulate, "clips": clips, "decodes": method.encoder is not None},
    "machine": _of_machine(machine),
    "clips_per_chip": clips / machine.chips,
    "checkpoint_bytes": sum(x.size * x.dtype.itemsize for x in _arrays(state)),
    "parameters": cost.parameters(state.params),
    "steps": program.total,
    "flops": {"program": arithmetic.flops(program.advance, state, batch) / machine.devices},
  }
  return _compile(program.advance, (state, batch), outcome, machine)


def _compile(
  function: jax.stages.Wrapped,
  arguments: tuple[Any, ...],
  outcome: dict[str, Any],
  machine: Machine,
) -> dict[str, Any]:
  began = time.perf_counter()
  try:
    compiled = function.lower(*arguments).compile(machine.compiler_options)
  except jax.errors.JaxRuntimeError as e:
    memory = _exceeded(str(e))
    if memory is None:
      raise
    return outcome | {"memory": memory}
  outcome["compile_seconds"] = time.perf_counter() - began
  return outcome | _describe(compiled, outcome, machine)


def _arrays(state: Any) -> list[Any]:
  leaves = jax.tree.leaves(state)
  return [x for x in leaves if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]


def _describe(compiled: Any, outcome: dict[str, Any], machine: Machine) -> dict[str, Any]:
  text = hlo.Program(compiled.as_text())
  chip = machine.chip
  analysis = compiled.cost_analysis() or {}
  flops, moved = text.flops(), traffic.moved(text)
  described = {
    "memory": _memory(compiled.memory_analysis(), machine),
    "flops": outcome["flops"] | {"compiled": flops, "by_dtype": text.products()},
    "bytes": moved,
    "collectives": [c._asdict() for c in text.collectives()],
    "unknown_loops": text.unknown_loops,
  }
  if chip.platform == "cpu":  # virtual devices have no speed
    return described
  seconds = {
    "arithmetic": flops / (chip.flops * machine.per_device),
    "memory": moved / (chip.bandwidth * machine.per_device),
  }
  estimate = analysis.get("optimal_seconds", -1.0)
  bound = max(seconds.values())
  clips = outcome["config"]["clips"] / bound
  described["seconds"] = seconds | {"bound": bound, "xla": estimate if estimate > 0 else None}
  if "steps" not in outcome:
    return described | ({"clips_per_second": clips} if clips else {})
  return described | {
    "clips_per_second": clips,
    "chip_hours": outcome["steps"] * bound * machine.chips / 3600,
    "host_cores": {
      "needed": clips / machine.hosts / CLIPS_PER_CORE if outcome["config"]["decodes"] else None,
      "has": chip.host_cores,
    },
  }


def _memory(analysis: Any, machine: Machine) -> dict[str, Any]:
  chip = machine.chip
  whole = chip.memory * machine.per_device
  limit = whole * chip.usable if math.isfinite(whole) else None
  arguments, temporaries = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
  results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  code = analysis.generated_code_size_in_bytes
  total = arguments + temporaries + results + code
  return {
    "arguments": arguments,
    "temporaries": temporaries,
    "results": results,
    "code": code,
    "total": total,
    "limit": limit,
    "fits": limit is None or total <= limit,
    # JAX's setting for what share of the memory it takes, if the default is too small.
    "fraction": total / whole if limit and limit < total <= 0.95 * whole else None,
  }


def _exceeded(message: str) -> dict[str, Any] | None:
  """What the compiler says where a program needs more memory than a chip has."""
  found = _OUT_OF_MEMORY.search(message)
  if found is None:
    if "RESOURCE_EXHAUSTED" not in message:
      return None
    return {"fits": False, "total": None, "limit": None}
  used, unit, limit, limit_unit = found.groups()
  return {
    "fits": False,
    "total": float(used) * _UNITS[unit],
    "limit": float(limit) * _UNITS[limit_unit],
  }
