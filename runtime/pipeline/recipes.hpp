// How an architecture's networks make a clip: a row each. Tests add theirs.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quantsparse::pipeline {

/// Which encoder's rows go into which input of the transformers.
struct TextInput {
    std::string encoder;    ///< role of the component
    std::string tokenizer;  ///< role of the tokenizer
    std::string input;      ///< name of the transformers' input
};

/// A transformer and the steps that are its own.
struct Expert {
    std::string role;
    double from_timestep = 0;              ///< on the 0..1000 scale: of the steps at or above it
    std::optional<double> guidance_scale;  ///< where nobody asks for one; else the model's
};

enum class Guidance {
    two_forwards,  ///< with the prompt and with the negative one, unless the scale is at most 1
    embedded,      ///< the scale is the transformers' input "guidance"; one forward
};

struct Recipe {
    std::string architecture;
    std::vector<TextInput> texts;
    std::vector<Expert> experts;  ///< falling from_timestep, the last one 0
    std::string vae;
    Guidance guidance = Guidance::two_forwards;
};

/// Throws Error(unsupported) when nobody knows how.
const Recipe& recipe_of(std::string_view architecture);
void add_recipe(Recipe recipe);

}  // namespace quantsparse::pipeline
