// Reading a network's configuration: fields under the spellings met on disk, checked, with messages
// that name file and field.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace quantsparse::format {

inline constexpr int kLargestWidth = 1 << 20;  ///< no network is near; products stay in 64 bits

/// Throws Error(bad_file) naming `where`.
[[noreturn]] void reject(const std::string& where, const std::string& what);

/// Parses a JSON object. Throws Error(bad_file) naming `where`.
nlohmann::json parse_json_object(const std::string& text, const std::string& where);

/// A value as it may stand in a message: on one line, and short however deep it is nested.
std::string value_text(const nlohmann::json& value);

/// The first of the spellings that is there and not null.
const nlohmann::json* find_field(const nlohmann::json& object,
                                 std::initializer_list<const char*> keys);

int checked_integer(const nlohmann::json& value, const char* key, int lowest, int highest,
                    const std::string& where);
/// An integer under one of several spellings; without a fallback it must be there.
int integer(const nlohmann::json& object, std::initializer_list<const char*> keys,
            const std::string& where, int fallback = -1, int lowest = 1,
            int highest = kLargestWidth);
bool boolean(const nlohmann::json& object, const char* key, bool fallback,
             const std::string& where);
std::vector<float> floats(const nlohmann::json& object, const char* key, const std::string& where);
/// An optional number in [lowest, highest]; `fallback` when the key is absent or null.
double number_or(const nlohmann::json& object, const char* key, double fallback, double lowest,
                 double highest, const std::string& where);

/// Throws Error(unsupported) where `_class_name` is there and none of `known`.
void check_class(const nlohmann::json& object, std::initializer_list<const char*> known,
                 const std::string& where);

}  // namespace quantsparse::format
