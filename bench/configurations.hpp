// The real models' configurations, by name or from a file, and how reports name them.
#pragma once

#include <string>

#include "format/checkpoint.hpp"
#include "model.hpp"
#include "report.hpp"

namespace quantsparse::bench {

/// The three networks' configurations; no weights are opened. Throws Error(io|bad_file).
format::ModelBundle configurations(const ModelOptions& options);

Json config_json(const ModelOptions& options, const format::WanDitConfig& dit);

/// "W4A8, rotated"
std::string bits_text(const ModelOptions& options);

}  // namespace quantsparse::bench
