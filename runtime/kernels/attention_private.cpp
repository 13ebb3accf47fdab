#include <shaders/attention_private.hpp>

#include "kernels/attention_kernel.hpp"
#include "kernels/loads.hpp"

namespace quantsparse::kernels {
namespace {

using shaders::ShaderId;

/// SwiftShader compiles it for a second or two in each process.
constexpr int kFewestKeys = 512;

/// Queries of an invocation, whose outputs have names of their own there.
constexpr std::uint32_t kQueries = 4;

ShaderId shader_of(bool sparse, bool both, bool sums, bool texels) {
    if (sums) {
        return texels ? ShaderId::attention_private_sparse_sums_texels
                      : ShaderId::attention_private_sparse_sums;
    }
    if (both) {
        return texels ? ShaderId::attention_private_both_texels : ShaderId::attention_private_both;
    }
    if (sparse) {
        return texels ? ShaderId::attention_private_sparse_texels
                      : ShaderId::attention_private_sparse;
    }
    return texels ? ShaderId::attention_private_dense_texels : ShaderId::attention_private_dense;
}

class AttentionPrivate final : public AttentionKernel {
  public:
    bool fits(const program::Limits& limits, const AttentionCall& call) const override {
        return limits.runs_on_cpu && !call.in_codes() &&
               (call.texels || call.keys >= kFewestKeys) && call.q.padded_dim <= kWidestPrivate;
    }

    AttentionPass prepare(Program&, const std::string&, const AttentionCall& call) const override {
        const AttentionOptions& options = call.options;
        return {shader_of(options.blocks, options.masked, options.tail, call.texels),
                attention_constants<shaders::attention_private::Constant>(call, kPrivateLanes,
                                                                          kPrivateLanes, kQueries),
                whole(call.q),
                whole(call.k),
                whole(call.v),
                options.bias.valid() ? program::read(options.bias) : program::unused(call.q.tensor),
                kPrivateLanes * kQueries,
                call.texels};
    }
};

}  // namespace

const AttentionKernel& attention_private() {
    static const AttentionPrivate kernel;
    return kernel;
}

}  // namespace quantsparse::kernels
