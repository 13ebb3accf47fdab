// Where the bytes for an output's name go: links are followed, and names of the program's own
// descriptors are told from files.
#pragma once

#include <filesystem>
#include <vector>

namespace quantsparse::video {

struct OutputPlace {
    enum class Kind {
        file,        ///< there or not: written beside, then renamed
        device,      ///< written directly
        pipe,        ///< the same; can't be sought in
        descriptor,  ///< of the program itself: "-", /dev/stdout, /dev/fd/3 and links to them
    };
    Kind kind = Kind::file;
    std::filesystem::path path;  ///< behind all links; as it was given for descriptors
    int descriptor = -1;
};

/// Throws Error(io) for names that the file system does not take and for links in a circle.
OutputPlace find_output_place(const std::filesystem::path& name);

/// Throws Error(invalid_argument) when two of the names mean one file or pipe.
void require_distinct(const std::vector<std::filesystem::path>& names);

/// Opens and closes a pipe, so that a reader that waits for it comes to its end.
void release_reader(const std::filesystem::path& pipe);

}  // namespace quantsparse::video
