// Command-line options whose words stand for an enum.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "quantsparse/error.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::video {

/// `names`: "--sampler,--sampling-method", for example.
template <typename Enum>
CLI::Option* add_choice(CLI::App& app, const std::string& names, Enum& value,
                        const std::string& description) {
    const auto parse = [&value, names](const std::string& word) {
        try {
            value = value_of<Enum>(word);
        } catch (const Error& error) {
            throw CLI::ValidationError(names.substr(0, names.find(',')), error.what());
        }
    };
    return app.add_option_function<std::string>(names, parse, description)
        ->type_name(list_of_words<Enum>());
}

}  // namespace quantsparse::video
