#include "toy_calibration.hpp"

#include <cmath>

#include "calib/attention.hpp"
#include "calib/registry.hpp"
#include "calib/tensors.hpp"
#include "toy_network.hpp"

namespace quantsparse::toy {
namespace {

using calib::BlockState;
using calib::BlockWeights;

class ToyTransformer final : public calib::Transformer {
  public:
    explicit ToyTransformer(const format::Component& component)
        : c_(component.network.config_as<ToyConfig>()) {
        for (const auto& tensor : component.network.tensors) {
            if (!tensor.name.starts_with("layers.")) {
                top_[tensor.name] = calib::load_tensor(*component.checkpoint, tensor.name);
            }
        }
    }

    BlockState prepare(const calib::TransformerInput& input) const override {
        BlockState state;
        const auto& latent = input.latent;
        state.grid = {latent.size(1), latent.size(2) / c_.patch, latent.size(3) / c_.patch};
        const auto& [frames, rows, columns] = state.grid;
        const auto patches = latent.view({c_.channels, frames, rows, c_.patch, columns, c_.patch})
                                 .permute({1, 2, 4, 0, 3, 5})
                                 .reshape({frames * rows * columns, -1});
        const auto& prompt = input.texts.at("prompt_rows");
        const auto padded = at::constant_pad_nd(prompt, {0, 0, 0, c_.text_tokens - prompt.size(0)});
        state.x = at::cat({linear("txt_in", padded), linear("img_in", patches)});

        auto features = at::zeros({c_.frequencies + 4}, at::kFloat);
        for (int i = 0; i < c_.frequencies / 2; ++i) {
            const double angle = input.timestep * std::pow(1000.0, -2.0 * i / c_.frequencies);
            features[2 * i] = std::cos(angle);
            features[2 * i + 1] = std::sin(angle);
        }
        features[c_.frequencies] = static_cast<float>(input.guidance) * 0.1f;
        state.given["vectors"] =
            linear("time_out", at::silu(linear("time_in", features))).view({kVectors, c_.width});
        return state;
    }

    at::Tensor run_block(const BlockWeights& weights, const BlockState& state,
                         const calib::BlockMethods& methods) const override {
        const auto m = weights.at("mod") + state.given.at("vectors");
        const auto heads = [&](const at::Tensor& rows, const char* scale) {
            const auto x = rows.view({rows.size(0), c_.heads, c_.head_dim()});
            return scale == nullptr
                       ? x
                       : x * at::rsqrt(x.square().mean(-1, true) + 1e-6) * weights.at(scale);
        };
        const auto qkv = methods.project("joint_in", norm(state.x, m[kShift1], m[kScale1]));
        const auto q = heads(qkv[0], "attn.q_scale"), k = heads(qkv[1], "attn.k_scale");
        const auto v = heads(qkv[2], nullptr);
        const auto mixed =
            methods.self_attention ? methods.self_attention(q, k, v) : calib::attention(q, k, v);
        const auto x = state.x + m[kGate1] * methods.project("joint_out", mixed)[0];
        const auto up = methods.project("mlp_up", norm(x, m[kShift2], m[kScale2]))[0];
        return x + m[kGate2] * methods.project("mlp_down", at::gelu(up, "tanh"))[0];
    }

    at::Tensor prediction(const BlockState& state) const override {
        const auto& [frames, rows, columns] = state.grid;
        const auto grid = state.x.slice(0, c_.text_tokens);
        const auto out = linear("img_out", norm(grid, at::zeros({1}), at::zeros({1})));
        return out.view({frames, rows, columns, c_.channels, c_.patch, c_.patch})
            .permute({3, 0, 1, 4, 2, 5})
            .reshape({c_.channels, frames, rows * c_.patch, columns * c_.patch});
    }

  private:
    at::Tensor linear(const std::string& name, const at::Tensor& x) const {
        return at::linear(x, top_.at(name + ".weight"), top_.at(name + ".bias"));
    }
    at::Tensor norm(const at::Tensor& x, const at::Tensor& shift, const at::Tensor& scale) const {
        const std::array<std::int64_t, 1> width = {c_.width};
        return at::layer_norm(x, width, {}, {}, 1e-6) * (1 + scale) + shift;
    }

    ToyConfig c_;
    std::map<std::string, at::Tensor> top_;
};

}  // namespace

void register_toy_calibration() {
    calib::add_transformer_kind(
        {"toy-joint",
         [](const format::Component& component) -> std::unique_ptr<calib::Transformer> {
             return std::make_unique<ToyTransformer>(component);
         }});
}

}  // namespace quantsparse::toy
