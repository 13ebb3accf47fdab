// The made-up transformer as a Program. Inputs: "prompt_rows", "guidance", "latent", "timestep".
#pragma once

namespace quantsparse::toy {

/// Makes the runtime know it; once per process.
void register_toy_program();

}  // namespace quantsparse::toy
