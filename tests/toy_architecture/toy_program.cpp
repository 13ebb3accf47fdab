#include "toy_program.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "kernels/copy.hpp"
#include "models/dit_block.hpp"
#include "models/registry.hpp"
#include "models/self_attention.hpp"
#include "toy_network.hpp"

namespace quantsparse::toy {
namespace {

using attention::StepKind;
using kernels::add_matrix;
using models::Linear;
using models::Matrix;
using models::Modulation;
using models::Program;
using models::Tensor;
using program::Lifetime;

std::vector<float> sinusoid(int frequencies, double timestep) {
    std::vector<float> values;
    for (int i = 0; i < frequencies / 2; ++i) {
        const double angle = timestep * std::pow(1000.0, -2.0 * i / frequencies);
        values.push_back(static_cast<float>(std::cos(angle)));
        values.push_back(static_cast<float>(std::sin(angle)));
    }
    return values;
}

std::vector<std::string> sites(int layers) {
    std::vector<std::string> names = {"the embeddings"};
    for (int i = 0; i < layers; ++i) {
        names.push_back(fmt::format("layer {}, after attention", i));
        names.push_back(fmt::format("layer {}, after the MLP", i));
    }
    return names;
}

class ToyTransformer final : public models::DenoisingNetwork {
  public:
    ToyTransformer(Program& program, const format::Network& network,
                   const models::DenoisingOptions& options)
        : c_(network.config_as<ToyConfig>()),
          options_(options),
          program_(program),
          weights_(program, options.half),
          watch_(program, sites(c_.layers)) {
        grid_.frames = options.latent.frames;
        rows_ = options.latent.height / c_.patch;
        columns_ = options.latent.width / c_.patch;
        grid_.places = rows_ * columns_;
        grid_.columns = columns_;
        grid_.text_in_front = c_.text_tokens;
        declare_weights(network);
        declare_inputs();
        attention_.emplace(program,
                           models::SparseSelfAttention::Shape{grid_, c_.heads, c_.head_dim()},
                           options.attention, c_.layers, 1, options.step_kinds);
        build_prompt();
        for (const StepKind kind : options.step_kinds) build_step(kind);
    }

    std::uint32_t prompt_phase(int) const override { return prompt_phase_; }
    std::uint32_t step_phase(int, StepKind kind) const override { return step_phase_.at(kind); }
    Tensor prediction(int) const override { return prediction_; }
    void reset(program::Executor& executor) const override {
        watch_.reset(executor);
        attention_->reset(executor);
    }
    std::string non_finite_site(const program::Executor& executor) const override {
        return watch_.first(executor);
    }
    const attention::ResidualState* residuals() const override { return attention_->residuals(); }
    std::vector<double> chosen_densities(const program::Executor& executor,
                                         int layer) const override {
        return attention_->chosen_densities(executor, layer);
    }
    const models::WeightSet& weights() const override { return weights_; }
    int tokens() const override { return grid_.tokens(); }

  private:
    struct Layer {
        std::vector<Linear> in, out, up, down;
        Tensor q_scale, k_scale;
    };

    void declare_weights(const format::Network& network) {
        const int features = c_.channels * c_.patch * c_.patch;
        img_in_ = weights_.linear("img_in", c_.width, features, true);
        txt_in_ = weights_.linear("txt_in", c_.width, c_.text_width, true);
        time_in_ = weights_.linear("time_in", c_.width, c_.frequencies + 4, true);
        time_out_ = weights_.linear("time_out", kVectors * c_.width, c_.width, true, kVectors);
        img_out_ = weights_.linear("img_out", features, c_.width, true);
        models::BlockLinears linears(weights_, options_.quantization, options_.transforms,
                                     options_.lora_ranks);
        std::vector<std::string> tables;
        for (const format::NetworkBlock& block : network.blocks) {
            const Program::Grouping grouping(
                program_, program::StreamGroup{program::StreamGroup::Kind::weights, block.prefix});
            Layer layer;
            layer.in = linears.declare(block, "joint_in");
            layer.out = linears.declare(block, "joint_out");
            layer.up = linears.declare(block, "mlp_up");
            layer.down = linears.declare(block, "mlp_down");
            layer.q_scale = weights_.vector(block.prefix + "attn.q_scale", c_.head_dim());
            layer.k_scale = weights_.vector(block.prefix + "attn.k_scale", c_.head_dim());
            layers_.push_back(std::move(layer));
            tables.push_back(block.prefix + "mod");
        }
        tables_ = weights_.concatenated(tables, kVectors * c_.width, kVectors);
    }

    void declare_inputs() {
        const auto count = options_.latent.count();
        const auto add = [&](const char* name, std::size_t floats) {
            return program_.add(name, floats * 4, Lifetime::persistent);
        };
        prompt_ = add_matrix(program_, "prompt_rows", c_.text_tokens, c_.text_width,
                             Lifetime::persistent);
        text_ = add_matrix(program_, "text", c_.text_tokens, c_.width, Lifetime::persistent);
        time_ = add("time", static_cast<std::size_t>(c_.frequencies));
        guidance_ = add("guidance", 4);
        latent_ = add("latent", count);
        prediction_ = add("prediction", count);
        const std::size_t prompt = static_cast<std::size_t>(c_.text_tokens * c_.text_width);
        inputs_ = {{"prompt_rows", prompt_.tensor, prompt,
                    [prompt](std::span<const float> values) {
                        std::vector<float> padded(values.begin(), values.end());
                        padded.resize(prompt, 0.0f);
                        return padded;
                    }},
                   {"guidance", guidance_, 1,
                    [](std::span<const float> values) {
                        return std::vector<float>{values.front() * 0.1f, 0, 0, 0};
                    }},
                   {"latent", latent_, count, {}},
                   {"timestep", time_, 1, [n = c_.frequencies](std::span<const float> values) {
                        return sinusoid(n, values.front());
                    }}};
    }

    void build_prompt() {
        prompt_phase_ = program_.begin_phase("prompt");
        matmul(program_, "txt_in", prompt_, txt_in_, text_);
    }

    Tensor build_modulation() {
        const Matrix features = add_matrix(program_, "time_features", 1, c_.frequencies + 4);
        const auto place = [&](const char* name, Tensor from, int floats, int offset) {
            kernels::Permutation copy;
            copy.size[4] = floats;
            copy.in_stride[4] = copy.out_stride[4] = 1;
            copy.out_offset = offset;
            kernels::permute(program_, name, from, features.tensor, copy);
        };
        place("time_features.time", time_, c_.frequencies, 0);
        place("time_features.guidance", guidance_, 4, c_.frequencies);
        const Matrix hidden = add_matrix(program_, "time_hidden", 1, c_.width);
        const Matrix vectors = add_matrix(program_, "time_vectors", 1, kVectors * c_.width);
        kernels::Epilogue silu;
        silu.activation = kernels::Activation::silu;
        matmul(program_, "time_in", features, time_in_, hidden, silu);
        matmul(program_, "time_out", hidden, time_out_, vectors);
        const int all = c_.layers * kVectors * c_.width;
        const Tensor modulation = program_.add("modulation", static_cast<std::uint64_t>(all) * 4);
        kernels::add_repeated(program_, "modulation", tables_, vectors.tensor, modulation, all,
                              kVectors * c_.width);
        return modulation;
    }

    Matrix grid_rows(const Matrix& x) const { return x.slice(c_.text_tokens, grid_.grid()); }

    void build_step(StepKind kind) {
        step_phase_[kind] = program_.begin_phase(fmt::format("step.{}", static_cast<int>(kind)));
        const Tensor modulation = build_modulation();
        const Matrix x = add_matrix(program_, "x", tokens(), c_.width);
        kernels::copy(program_, "text", text_, x.slice(0, c_.text_tokens));
        const Matrix patches =
            add_matrix(program_, "patches", grid_.grid(), c_.channels * c_.patch * c_.patch);
        kernels::permute(program_, "patchify", latent_, patches.tensor, patchify(patches.stride));
        matmul(program_, "img_in", patches, img_in_, grid_rows(x));
        for (int i = 0; i < c_.layers; ++i) build_layer(i, kind, x, modulation);
        const Matrix out = add_matrix(program_, "out", grid_.grid(), patches.columns);
        const Matrix normed = add_matrix(program_, "final_norm", grid_.grid(), c_.width);
        normalize_rows(program_, "final_norm", grid_rows(x), normed,
                       watch_.norm(2 * c_.layers, 1e-6f));
        matmul(program_, "img_out", normed, img_out_, out);
        kernels::Permutation back = patchify(out.stride);
        std::swap(back.in_stride, back.out_stride);
        kernels::permute(program_, "unpatchify", out.tensor, prediction_, back);
    }

    /// Features (channel, row, column) of a token.
    kernels::Permutation patchify(int stride) const {
        const auto& latent = options_.latent;
        const int plane = latent.height * latent.width;
        kernels::Permutation p;
        p.size = {latent.frames * rows_, columns_, c_.channels, c_.patch, c_.patch};
        p.in_stride = {c_.patch * latent.width, c_.patch, latent.frames * plane, latent.width, 1};
        p.out_stride = {columns_ * stride, stride, c_.patch * c_.patch, c_.patch, 1};
        return p;
    }

    void build_layer(int index, StepKind kind, const Matrix& x, Tensor modulation) {
        const Layer& layer = layers_[static_cast<std::size_t>(index)];
        const auto vectors = [&](int shift, int scale, int gate) {
            const auto offset = [&](int v) { return (index * kVectors + v) * c_.width; };
            return Modulation{modulation, offset(shift), offset(scale), offset(gate)};
        };
        const Modulation first = vectors(kShift1, kScale1, kGate1);
        const Matrix u = modulated_norm(program_, "norm1", x, watch_.norm(2 * index, 1e-6f), first);
        const models::LinearInput input = prepare_input(program_, layer.in[0], u);
        const auto project = [&](std::size_t which, const char* name) {
            const Matrix rows = add_matrix(program_, name, tokens(), c_.width);
            apply(program_, fmt::format("attn.{}", name), layer.in[which], input, rows);
            return rows;
        };
        models::SparseSelfAttention::Operands operands;
        operands.q = per_head(project(0, "q"), "q_norm", layer.q_scale);
        operands.k = per_head(project(1, "k"), "k_norm", layer.k_scale);
        operands.v = project(2, "v");
        const Matrix mixed = attention_->build(index, 0, kind, operands);
        add_output(program_, "attn.proj", layer.out[0], mixed, x, first);
        feed_forward(program_, layer.up[0], layer.down[0], x, watch_.norm(2 * index + 1, 1e-6f),
                     vectors(kShift2, kScale2, kGate2));
    }

    /// RMS norm of each head on its own: rows of a head's width.
    Matrix per_head(const Matrix& rows, const char* name, Tensor scale) {
        const Matrix out = add_matrix(program_, name, rows.rows, rows.columns);
        const auto heads = [&](const Matrix& m) {
            return Matrix{m.tensor, m.rows * c_.heads, c_.head_dim(), c_.head_dim(), 0};
        };
        kernels::Norm norm;
        norm.kind = kernels::Norm::Kind::rms;
        norm.weight = scale;
        normalize_rows(program_, name, heads(rows), heads(out), norm);
        return out;
    }

    ToyConfig c_;
    models::DenoisingOptions options_;
    Program& program_;
    models::WeightSet weights_;
    models::FiniteWatch watch_;
    models::TokenGrid grid_;
    int rows_ = 0, columns_ = 0;
    kernels::FloatWeight img_in_, txt_in_, time_in_, time_out_, img_out_;
    Tensor tables_, time_, guidance_, latent_, prediction_;
    Matrix prompt_, text_;
    std::vector<Layer> layers_;
    std::optional<models::SparseSelfAttention> attention_;
    std::uint32_t prompt_phase_ = 0;
    std::map<StepKind, std::uint32_t> step_phase_;
};

}  // namespace

void register_toy_program() {
    models::add_denoising_kind(
        {"toy-joint",
         [](Program& program, const format::Network& network,
            const models::DenoisingOptions& options) -> std::unique_ptr<models::DenoisingNetwork> {
             return std::make_unique<ToyTransformer>(program, network, options);
         },
         nullptr});
}

}  // namespace quantsparse::toy
