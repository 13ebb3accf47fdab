// The kinds of networks and the architectures made of them. Tests add theirs; nothing else changes
// the lists, so that reading them from several threads is safe once a program is set up.
#pragma once

#include <string_view>
#include <vector>

#include "format/architecture.hpp"
#include "format/network.hpp"

namespace quantsparse::format {

/// Throws Error(unsupported) naming it when there is none.
const NetworkKind& network_kind(std::string_view name);
void add_network_kind(NetworkKind kind);

[[noreturn]] void throw_no_row(const Network& network, const char* doing);

const std::vector<Architecture>& architectures();
void add_architecture(Architecture architecture);

/// What a table of kinds says about a network. Throws Error(unsupported) when it has no row:
/// networks of the kind "can't be `doing`".
template <typename Row>
const Row& row_of(const std::vector<Row>& table, const Network& network, const char* doing) {
    for (const Row& row : table) {
        if (row.kind == network.kind) {
            return row;
        }
    }
    throw_no_row(network, doing);
}

}  // namespace quantsparse::format
