#include "vulkan/unroll.hpp"

#ifdef QUANTSPARSE_HAS_SPIRV_OPT
#include <spirv-tools/optimizer.hpp>
#include <unordered_map>
#endif

namespace quantsparse::vulkan {

#ifdef QUANTSPARSE_HAS_SPIRV_OPT

std::vector<std::uint32_t> unrolled(std::span<const std::uint32_t> words,
                                    const std::vector<std::uint32_t>& specialization) {
    std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> values;
    for (std::uint32_t id = 0; id < specialization.size(); ++id) values[id] = {specialization[id]};
    spvtools::Optimizer optimizer(SPV_ENV_VULKAN_1_2);
    optimizer.RegisterPass(spvtools::CreateSetSpecConstantDefaultValuePass(values))
        .RegisterPass(spvtools::CreateFreezeSpecConstantValuePass())
        .RegisterPass(spvtools::CreateFoldSpecConstantOpAndCompositePass())
        // Trip counts are found in values, not in variables.
        .RegisterPass(spvtools::CreateDeadBranchElimPass())
        .RegisterPass(spvtools::CreateLocalAccessChainConvertPass())
        .RegisterPass(spvtools::CreateSSARewritePass())
        .RegisterPass(spvtools::CreateCCPPass())
        .RegisterPass(spvtools::CreateLoopUnrollPass(true))
        // Arrays whose indices are constants now; 0: of any size.
        .RegisterPass(spvtools::CreateCCPPass())
        .RegisterPass(spvtools::CreateScalarReplacementPass(0))
        .RegisterPass(spvtools::CreateLocalAccessChainConvertPass())
        .RegisterPass(spvtools::CreateSSARewritePass())
        .RegisterPass(spvtools::CreateSimplificationPass())
        .RegisterPass(spvtools::CreateAggressiveDCEPass())
        .RegisterPerformancePasses();
    spvtools::OptimizerOptions options;
    options.set_run_validator(false);  // spirv-val has seen it when it was built
    std::vector<std::uint32_t> result;
    if (!optimizer.Run(words.data(), words.size(), &result, options)) result.clear();
    return result;
}

#else

std::vector<std::uint32_t> unrolled(std::span<const std::uint32_t>,
                                    const std::vector<std::uint32_t>&) {
    return {};
}

#endif

}  // namespace quantsparse::vulkan
