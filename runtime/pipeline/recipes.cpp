#include "pipeline/recipes.hpp"

#include <fmt/format.h>
#include <algorithm>

#include "quantsparse/error.hpp"

namespace quantsparse::pipeline {
namespace {

std::vector<Recipe>& recipes() {
    static std::vector<Recipe> rows = {
        {"wan2.1-t2v",
         {{"text_encoder", "tokenizer", "context"}},
         {{"transformer", 0, {}}},
         "vae",
         Guidance::two_forwards},
    };
    return rows;
}

}  // namespace

const Recipe& recipe_of(std::string_view architecture) {
    const auto found = std::find_if(recipes().begin(), recipes().end(), [&](const Recipe& recipe) {
        return recipe.architecture == architecture;
    });
    if (found == recipes().end()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("clips can't be made with the architecture '{}'", architecture));
    }
    return *found;
}

void add_recipe(Recipe recipe) {
    recipes().push_back(std::move(recipe));
}

}  // namespace quantsparse::pipeline
