// The kinds of networks and the architectures made of them. Tests add theirs; nothing else changes
// the lists, so that reading them from several threads is safe once a program is set up.
#pragma once

#include <string_view>

#include "format/architecture.hpp"
#include "format/network.hpp"

namespace quantsparse::format {

/// Throws Error(unsupported) naming it when there is none.
const NetworkKind& network_kind(std::string_view name);
void add_network_kind(NetworkKind kind);

const std::vector<Architecture>& architectures();
void add_architecture(Architecture architecture);

}  // namespace quantsparse::format
