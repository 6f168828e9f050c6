"""Memory traffic of programs whose traffic is known."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from vssl_jax.planning import hlo, traffic


def _program(fn, *args):
  return hlo.Program(jax.jit(fn).lower(*args).compile().as_text())


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_parameters_of_a_fusion_may_have_metadata():
  text = """\
%fused (p: f32[100]) -> f32[100] {
  %p = f32[100]{0} parameter(0), metadata={op_name="x"}
  ROOT %s = f32[100]{0} sine(%p)
}

ENTRY %main (x: f32[100]) -> f32[100] {
  %x = f32[100]{0} parameter(0), metadata={op_name="x"}
  ROOT %f = f32[100]{0} fusion(%x), kind=kLoop, calls=%fused
}
"""
  assert traffic.moved(hlo.Program(text)) == 2 * 4 * 100


def test_traffic_counts_operands_and_results_but_not_what_stays_in_a_fusion():
  program = _program(lambda x: jnp.tanh(jnp.sin(x) * 2 + 1), _shape(1000))
  assert traffic.moved(program) == 2 * 4 * 1000


def test_a_slice_counts_as_large_as_its_part():
  program = _program(lambda x, i: lax.dynamic_slice_in_dim(x, i, 10), _shape(1000), 3)
  assert traffic.moved(program) < 200


def test_a_loop_reads_only_its_slice_of_stacked_arrays():
  """As activations that a loop over clips has stored."""

  def loop(x):
    return lax.map(lambda i: jnp.tanh(x[i] * 2), jnp.arange(10))

  program = _program(loop, _shape(10, 1000))
  # Read once and written once, and perhaps a copy of both.
  assert 2 * 4 * 10_000 <= traffic.moved(program) <= 4.5 * 4 * 10_000


def test_a_slice_in_a_fusion_of_a_fusion_counts_as_large_as_its_part():
  text = """\
%inner (a: s32[], b: f32[1000]) -> f32[10] {
  %a = s32[] parameter(0)
  %b = f32[1000]{0} parameter(1)
  ROOT %d = f32[10]{0} dynamic-slice(%b, %a), dynamic_slice_sizes={10}
}

%outer (p: f32[1000], q: s32[]) -> f32[10] {
  %p = f32[1000]{0} parameter(0)
  %q = s32[] parameter(1)
  %g = f32[10]{0} fusion(%q, %p), kind=kLoop, calls=%inner
  ROOT %s = f32[10]{0} sine(%g)
}

ENTRY %main (x: f32[1000], i: s32[]) -> f32[10] {
  %x = f32[1000]{0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[10]{0} fusion(%x, %i), kind=kLoop, calls=%outer
}
"""
  assert traffic.moved(hlo.Program(text)) == 4 * (10 + 1 + 10)


# As a TPU program has it: S(1) is memory on the chip, and copies to it go on beside other work.
SCRATCH = """\
%fused (p: f32[64], q: f32[256]) -> (f32[64], f32[256]) {
  %p = f32[64]{0} parameter(0)
  %q = f32[256]{0} parameter(1)
  %s = f32[64]{0} sine(%p)
  %c = f32[256]{0} cosine(%q)
  ROOT %t = (f32[64], f32[256]) tuple(%s, %c)
}

ENTRY %main (x: f32[256]) -> f32[256] {
  %x = f32[256]{0:T(256)} parameter(0)
  %a = ((f32[256]{0:T(256)}), f32[64]{0:T(64)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:64]}
  %b = f32[64]{0:T(64)S(1)} slice-done(%a)
  %m = f32[256]{0:T(256)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %d = (f32[256]{0:T(256)S(1)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%x)
  %e = f32[256]{0:T(256)S(1)} copy-done(%d)
  %f = (f32[64]{0:T(64)S(1)}, f32[256]{0:T(256)}) fusion(%b, %e), kind=kLoop, calls=%fused
  ROOT %g = f32[256]{0:T(256)} get-tuple-element(%f), index=1
}
"""


def test_memory_on_the_chip_is_no_traffic():
  # A quarter and then all of x is read; of the two results, the large one is written.
  assert traffic.moved(hlo.Program(SCRATCH)) == 4 * (64 + 256 + 256)


def test_each_instruction_tells_its_own():
  found = {x.name: (runs, count) for x, runs, count in traffic.by_instruction(hlo.Program(SCRATCH))}
  assert found == {"a": (1, 4 * 64), "d": (1, 4 * 256), "f": (1, 4 * 256)}


@pytest.mark.parametrize(
  ("layout", "size"),
  [
    ("{1,0}", 3 * 65 * 2),
    ("{1,0:T(8,128)(2,1)}", 8 * 128 * 2),
    ("{0,1:T(8,128)(2,1)}", 128 * 72 * 2),  # the axis of 65 is the slower one
    ("{1,0:T(256)}", 3 * 256 * 2),
  ],
)
def test_arrays_fill_whole_tiles(layout, size):
  text = f"""\
ENTRY %main (x: bf16[3,65]) -> f32[] {{
  %x = bf16[3,65]{layout} parameter(0)
  ROOT %y = f32[] custom-call(%x), custom_call_target="Some"
}}
"""
  assert traffic.moved(hlo.Program(text)) == size + 4
