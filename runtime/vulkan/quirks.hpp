// What drivers get wrong, or do better another way: named flags, set in one place
// (capabilities.cpp), tested by name elsewhere. Each says which driver, which range, and how it was
// seen.
#pragma once

namespace quantsparse::vulkan {

struct Quirks {
    /// A CPU implementation (lavapipe, SwiftShader): many lanes of a work-group run one after
    /// another, so narrow groups and tall register tiles are faster.
    bool runs_on_cpu = false;

    /// lavapipe (Mesa 22.3, src/gallium/auxiliary/gallivm) takes a load from a storage buffer apart
    /// in a loop over the lanes, with a branch for each; a fetch from a uniform texel buffer is a
    /// gather without branches. 512x1536x1536 on two cores, side by side: fp32 GEMM 5.1 against
    /// 18.0 GOPS, W4A8 20 against 30.
    bool texel_reads_are_faster = false;

    /// SwiftShader unrolls no loops and keeps the arrays they index in memory, lane by lane: W4A8
    /// 64x1536x1536 takes 231 ms, with its loops unrolled before (vulkan/unroll.hpp) 48.
    bool leaves_loops_rolled = false;

    /// Intel's drivers have cooperative matrices in subgroups of 8 or 16 lanes alone, while
    /// subgroupSize says 32: the matrix tier, which asks for that size, is not offered. From their
    /// documentation; not seen on a device.
    bool matrix_units_in_narrow_subgroups = false;
};

}  // namespace quantsparse::vulkan
