// Command-line options whose words stand for an enum.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "quantsparse/error.hpp"
#include "quantsparse/names.hpp"

namespace quantsparse::video {

template <typename T>
struct EnumOf {
    using Type = T;
};
template <typename T>
struct EnumOf<std::optional<T>> {
    using Type = T;
};

/// `names`: "--sampler,--sampling-method", for example. `value`: an enum, or std::optional of one.
template <typename Value>
CLI::Option* add_choice(CLI::App& app, const std::string& names, Value& value,
                        const std::string& description) {
    using Enum = typename EnumOf<Value>::Type;
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
