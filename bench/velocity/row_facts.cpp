#include "velocity/row_facts.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "attention/band.hpp"
#include "attention/block_rule.hpp"
#include "format/clip_geometry.hpp"
#include "format/model_bundle.hpp"
#include "pipeline/recipes.hpp"

namespace quantsparse::bench {
namespace {

/// Pairs that the mask shows, of all; without the blocks that top_p or touching ones add.
double mask_density(const AttentionParameters& attention, int tokens, int places) {
    const bool curve = attention::block_order_of(attention) == BlockOrder::curve;
    const int sink = attention.sink == Sink::none || curve ? 0 : places;
    if (attention::lists_blocks(attention)) {
        return attention::make_block_rule({tokens, 0, tokens, sink}, *attention.block_size,
                                          *attention.density, 0)
            .density();
    }
    const int band = attention::band_width(tokens, sink, *attention.density, attention.mask);
    return static_cast<double>(attention::count_pairs(tokens, band, sink)) /
           (static_cast<double>(tokens) * tokens);
}

/// A model's transformer and the geometry of its clips.
struct Shape {
    explicit Shape(const std::filesystem::path& model)
        : bundle(format::open_model(model)),
          recipe(pipeline::recipe_of(bundle.architecture)),
          transformer(bundle.network(recipe.experts.front().role)),
          geometry(format::clip_geometry(transformer, bundle.network(recipe.vae))) {}

    std::array<int, 4> latent(const GenerationParameters& p) const {
        return geometry.latent(*p.width, *p.height, *p.frames);
    }

    format::ModelBundle bundle;
    const pipeline::Recipe& recipe;
    const format::Network& transformer;
    format::ClipGeometry geometry;
};

}  // namespace

std::uint64_t latent_values(const std::filesystem::path& model,
                            const GenerationParameters& resolved) {
    const auto latent = Shape(model).latent(resolved);
    return std::accumulate(latent.begin(), latent.end(), std::uint64_t{1}, std::multiplies<>());
}

RowFacts row_facts(const std::filesystem::path& model, const Generator& generator,
                   const GenerationParameters& parameters) {
    const GenerationParameters p = generator.resolve(parameters);
    const Shape shape(model);
    RowFacts facts;
    facts.layers = static_cast<int>(shape.transformer.blocks.size());
    facts.dense_layers = facts.layers;
    const StepCounts steps = generator.step_counts(parameters);
    const double all = steps.dense + steps.refresh + steps.sparse + steps.reused;
    double sparse = 1;
    if (p.attention.kind == AttentionKind::sparse) {
        const auto latent = shape.latent(p);
        const int tokens = shape.geometry.tokens(latent);
        facts.dense_layers = std::min(p.attention.dense_layers, facts.layers);
        const double density =
            mask_density(p.attention, tokens, tokens / (latent[1] / shape.geometry.patch[0]));
        sparse = (facts.dense_layers + (facts.layers - facts.dense_layers) * density) /
                 std::max(1, facts.layers);
    }
    facts.pairs = (steps.dense + steps.refresh + steps.sparse * sparse) / all;
    return facts;
}

}  // namespace quantsparse::bench
