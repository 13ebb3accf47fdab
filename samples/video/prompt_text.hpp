// Prompts: from files, and what in them other programs would not take for words.
#pragma once

#include <string>
#include <vector>

namespace quantsparse::video {

/// The whole file. Throws Error(io).
std::string read_prompt(const std::string& path);

/// A line for each kind of syntax of other programs in `text`, which the model reads as plain text:
/// "<lora:name:1>" and "(word:1.5)". `what`: "prompt" or "negative prompt".
std::vector<std::string> foreign_syntax(const std::string& what, const std::string& text);

}  // namespace quantsparse::video
