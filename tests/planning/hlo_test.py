"""The reader of compiled programs: FLOPs, traffic and collectives of programs with known ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from vssl_jax import parallel
from vssl_jax.planning import arithmetic, hlo, traffic


def _program(fn, *args):
  return hlo.Program(jax.jit(fn).lower(*args).compile().as_text())


def _shape(*shape, sharding=None, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def test_loops_are_multiplied_out():
  def loop(x, w):
    return lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=7)[0]

  program = _program(loop, _shape(64, 32), _shape(32, 32))
  assert program.flops() == 7 * 2 * 64 * 32 * 32
  assert program.unknown_loops == 0
  assert program.products() == {"f32": program.flops()}


def test_a_loop_without_a_known_length_counts_once_and_is_told():
  def loop(x, w):
    return lax.while_loop(lambda c: jnp.sum(c) < 100, lambda c: c @ w, x)

  program = _program(loop, _shape(64, 32), _shape(32, 32))
  assert program.unknown_loops == 1
  assert program.flops() == 2 * 64 * 32 * 32


# As TPU programs have it, which note no length.
LOOP = """\
%fused (e: s32[], f: s32[]) -> (s32[], s32[]) {{
  %e = s32[] parameter(0)
  %f = s32[] parameter(1)
  %sum = s32[] add(%e, %f)
  ROOT %both = (s32[], s32[]) tuple(%f, %sum)
}}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {{
  %p = (s32[], f32[4,8]{{1,0}}) parameter(0)
  %w = f32[8,8]{{1,0}} constant({{...}})
  %x = f32[4,8]{{1,0}} get-tuple-element(%p), index=1
  %i = s32[] get-tuple-element(%p), index=0
  %y = f32[4,8]{{1,0}} dot(%x, %w), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
  %d = s32[]{{:T(128)}} constant({step})
  %pair = (s32[], s32[]) fusion(%i, %d), kind=kLoop, calls=%fused
  %second = s32[] get-tuple-element(%pair), index=1
  %plain = s32[] add(%d, %i)
  %product = s32[] multiply(%d, %i)
  ROOT %t = (s32[], f32[4,8]{{1,0}}) tuple(%{next}, %y)
}}

%condition (q: (s32[], f32[4,8])) -> pred[] {{
  %n = s32[]{{:T(128)}} constant(3)
  %q = (s32[], f32[4,8]{{1,0}}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  ROOT %lt = pred[] compare(%j, %n), direction=LT
}}

ENTRY %main (a: f32[4,8], b: s32[], c: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {{
  %a = f32[4,8]{{1,0}} parameter(0)
  %b = s32[] parameter(1)
  %c = (s32[], f32[4,8]{{1,0}}) parameter(2)
  %zero = s32[]{{:T(128)}} constant(0)
  %one = s32[]{{:T(128)}} constant(1)
  %copied = s32[]{{:T(128)}} copy(%zero)
  %begin = (s32[], f32[4,8]{{1,0}}) tuple(%{begin}, %a)
  ROOT %loop = (s32[], f32[4,8]{{1,0}}) while(%{given}), condition=%condition, body=%body
}}
"""


def _loop(begin="zero", given="begin", step=1, next="plain"):
  return hlo.Program(LOOP.format(begin=begin, given=given, step=step, next=next))


@pytest.mark.parametrize("begin", ["zero", "copied"])
def test_the_length_of_a_loop_is_read_from_its_condition(begin):
  program = _loop(begin)
  assert program.entry == "main"
  # Of the product, the counters (a sum, a product and a fusion of three numbers, the latter with
  # one result more), and the comparison.
  once = 4 * (4 * 8 + 8 * 8 + 4 * 8) + 4 * (3 + 3 + 4) + 4 + 4 + 1
  assert traffic.moved(program) == 3 * once + 8  # and of the copy
  assert program.flops() == 3 * 2 * 4 * 8 * 8
  assert program.unknown_loops == 0


@pytest.mark.parametrize("next", ["plain", "second"])
def test_a_loop_whose_counter_grows_by_more_is_shorter(next):
  """The compiler put two iterations into one; the last one may have nothing to do."""
  assert _loop(next=next).flops() == 3 * 2 * 4 * 8 * 8
  assert _loop(step=2, next=next).flops() == 2 * 2 * 4 * 8 * 8
  assert _loop(step=2, next=next).unknown_loops == 0


@pytest.mark.parametrize(
  "loop",
  [{"begin": "one"}, {"begin": "b"}, {"given": "c"}, {"next": "product"}, {"next": "i"}],
)
def test_a_condition_tells_no_length_of_other_loops(loop):
  """They do not begin at zero, or do not add a constant."""
  program = _loop(**loop)
  assert program.flops() == 2 * 4 * 8 * 8
  assert program.unknown_loops == 1


def test_convolutions_and_their_gradients():
  def conv(k, x):
    y = lax.conv_general_dilated(
      x, k, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.mean(y * y)

  grad = jax.grad(conv, argnums=(0, 1))
  args = _shape(3, 3, 8, 16), _shape(4, 17, 17, 8)
  assert _program(grad, *args).flops() == arithmetic.flops(grad, *args)


CUDNN = """\
ENTRY %main (k: bf16[128,3,3,64], x: bf16[8,56,56,64], y: bf16[8,56,56,128]) -> bf16[8] {{
  %k = bf16[128,3,3,64]{{3,2,1,0}} parameter(0)
  %x = bf16[8,56,56,64]{{3,2,1,0}} parameter(1)
  %y = bf16[8,56,56,128]{{3,2,1,0}} parameter(2)
  ROOT %c = ({result}, u8[0]{{0}}) custom-call({operands}), window={{size=3x3 pad=1_1x1_1}}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn${name}"
}}
"""


@pytest.mark.parametrize(
  ("name", "result", "operands"),
  [
    ("convForward", "bf16[8,56,56,128]{3,2,1,0}", "%x, %k"),
    ("convBackwardInput", "bf16[8,56,56,64]{3,2,1,0}", "%y, %k"),
    ("convBackwardFilter", "bf16[128,3,3,64]{3,2,1,0}", "%x, %y"),
  ],
)
def test_convolutions_of_a_gpu_program(name, result, operands):
  program = hlo.Program(CUDNN.format(name=name, result=result, operands=operands))
  met = 3 * 56 - 2  # pairs of an output and a tap with data, along one axis
  assert program.flops() == 2 * 8 * met * met * 64 * 128


def test_matrix_products_of_a_gpu_program():
  text = """\
ENTRY %main (a: bf16[4,8], b: bf16[8,16]) -> bf16[4,16] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  ROOT %c = (bf16[4,16]{1,0}, s8[33554432]{0}) custom-call(%a, %b), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
"""
  assert hlo.Program(text).flops() == 2 * 4 * 8 * 16


def test_collectives_with_kind_dtype_size_and_times():
  mesh = parallel.make_mesh(jax.devices()[:8])
  rows, whole = parallel.split(mesh), parallel.replicated(mesh)

  def step(w, x):
    gathered = lax.with_sharding_constraint(x, whole)
    return jax.grad(lambda w: jnp.mean((x @ w) ** 2))(w), gathered

  program = _program(step, _shape(32, 16, sharding=whole), _shape(64, 32, sharding=rows))
  found = {c.kind: c for c in program.collectives()}
  assert set(found) == {"all-reduce", "all-gather"}
  assert found["all-gather"].bytes == 64 * 32 * 4
  assert found["all-reduce"].bytes == 32 * 16 * 4
  assert found["all-reduce"].dtype == "f32"
  assert all(c.times == 1 for c in found.values())
  assert "dot_general" in found["all-reduce"].source


def test_collectives_inside_a_loop_count_as_often_as_it_runs():
  mesh = parallel.make_mesh(jax.devices()[:8])

  def loop(x):
    def body(total, i):
      return total + jnp.sum(x * i), None

    return lax.scan(body, 0.0, jnp.arange(5.0))[0]

  program = _program(loop, _shape(64, sharding=parallel.split(mesh)))
  assert sum(c.times for c in program.collectives()) in (1, 5)  # XLA may move it out of the loop


@pytest.mark.parametrize(
  ("results", "call", "kind", "size"),
  [
    ("(f32[8]{0}, f32[64]{0})", "all-gather-start(%x)", "all-gather", 256),
    (
      "((f32[8]{0}, bf16[4]{0}), (f32[64]{0}, bf16[32]{0}))",
      "all-gather-start(%x, %y)",
      "all-gather",
      256 + 64,
    ),
    (
      "(f32[8]{0}, f32[8]{0}, u32[], u32[])",
      "collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
      "collective-permute",
      32,
    ),
    ("((f32[8]{0}), f32[1]{0}, u32[])", "reduce-scatter-start(%x)", "reduce-scatter", 4),
    ("f32[8]{0}", "all-reduce-start(%x), to_apply=%add", "all-reduce", 32),
    ("(f32[8]{0}, bf16[4]{0})", "all-reduce-start(%x, %y), to_apply=%add", "all-reduce", 40),
  ],
)
def test_a_collective_that_is_started_counts_its_results(results, call, kind, size):
  """Not its operands, which most return too, nor what the compiler keeps of the exchange."""
  text = f"""\
ENTRY %main (x: f32[8], y: bf16[4]) -> f32[] {{
  %x = f32[8]{{0}} parameter(0)
  %y = bf16[4]{{0}} parameter(1)
  ROOT %c = {results} {call}
}}
"""
  (found,) = hlo.Program(text).collectives()
  assert (found.kind, found.dtype, found.bytes, found.times) == (kind, "f32", size, 1)


# An exchange beside other work, as TPU programs have it: three fusions for one of them.
CHAIN = """\
%first (x: f32[8]) -> (f32[64], s32[]) {
  %x = f32[8]{0} parameter(0)
  %g.1 = f32[64]{0} all-gather(%x), channel_id=6, frontend_attributes={chain_id="1"}
  ROOT %s = (f32[64]{0}, s32[]) custom-call(%g.1), custom_call_target="AsyncCollectiveStart"
}

%later (y: f32[8]) -> f32[64] {
  %y = f32[8]{0} parameter(0)
  ROOT %g.2 = f32[64]{0} all-gather(%y), channel_id=6, frontend_attributes={chain_id="1"}
}

%last (z: f32[8]) -> f32[64] {
  %z = f32[8]{0} parameter(0)
  %g.3 = f32[64]{0} all-gather(%z), channel_id=6, frontend_attributes={chain_id="1"}
  ROOT %d = f32[64]{0} custom-call(%g.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: f32[8]) -> f32[64] {
  %a = f32[8]{0} parameter(0)
  %b = (f32[64]{0}, s32[]) fusion(%a), kind=kCustom, calls=%first
  %c = f32[64]{0} fusion(%a), kind=kCustom, calls=%later
  %e = f32[64]{0} all-gather(%a), channel_id=7
  ROOT %f = f32[64]{0} fusion(%a), kind=kCustom, calls=%last
}
"""


def test_a_collective_that_several_fusions_continue_counts_once():
  (found,) = hlo.Program(CHAIN).collectives()
  assert (found.kind, found.bytes, found.times) == ("all-gather", 256, 2)  # one chain, one other
  other = CHAIN.replace('chain_id="1"', 'chain_id="2"', 1)  # a chain of which nothing is started
  (found,) = hlo.Program(other.replace("AsyncCollectiveStart", "X")).collectives()
  assert found.times == 4


@pytest.mark.parametrize(
  ("dtype", "bits"), [("f32", 32), ("bf16", 16), ("u8", 8), ("pred", 8), ("f8e4m3fn", 8), ("s4", 4)]
)
def test_sizes_of_dtypes(dtype, bits):
  assert hlo.Array(dtype, (4, 6)).size() == 24 * bits // 8
  (found,) = hlo._arrays(f"{dtype}[4,6]{{1,0:T(8,128)}}")
  assert found == hlo.Array(dtype, (4, 6), order=(1, 0), tile=(8, 128))


def test_a_step_compiled_for_a_tpu_counts_as_much_as_its_operations():
  """The gradient of a small network, against the count from JAX's operations."""

  def loss(w, x):
    for _ in range(3):
      x = jnp.tanh(x @ w)
    return jnp.mean(x)

  args = _shape(16, 16), _shape(8, 16)
  grad = jax.grad(loss)
  np.testing.assert_allclose(_program(grad, *args).flops(), arithmetic.flops(grad, *args))
