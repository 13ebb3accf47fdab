// How a clip is integrated from noise to data.
#pragma once

namespace quantsparse {

/// `lcm`, `dmd` and `rcm` add fresh noise after each step: for models distilled to few steps. `dmd`
/// (FastWan) takes a list of whole timesteps, `rcm` (TurboDiffusion) has its own times. `ddim` is
/// for models that were trained on betas; a flow refuses it.
enum class Sampler { unipc, dpmpp, euler, lcm, ddim, dmd, rcm };

/// Where a clip's noise comes from.
enum class Rng {
    philox,  ///< the same on every machine, whatever the size: each value has its own place
    /// What torch.randn(shape, generator=torch.Generator().manual_seed(seed)) gives on the CPU in
    /// float32 for the latent [channels, frames, rows, columns], to about 1e-6, as diffusers and
    /// ComfyUI begin a clip. Of the seed, the lower 32 bits count, as there. What a sampler adds on
    /// the way is drawn from the same generator, which goes on where it stands, as in diffusers.
    torch,
};

/// How distilled models want to be run, under one name each.
enum class FewSteps {
    lightx2v_4,  ///< euler, timesteps 1000, 750, 500, 250 before the shift, flow shift 5
    fastwan_3,   ///< dmd, timesteps 1000, 757, 522, flow shift 8
    turbo_4,     ///< rcm, 4 steps
};

}  // namespace quantsparse
