// The writers behind make_writer(); internal to this folder.
#pragma once

#include "writer.hpp"

namespace quantsparse::video {

std::unique_ptr<VideoWriter> make_gif_writer(const std::filesystem::path& path);
std::unique_ptr<VideoWriter> make_libav_writer(const std::filesystem::path& path,
                                               Container container);
std::unique_ptr<VideoWriter> make_png_writer(const std::filesystem::path& path);
std::unique_ptr<VideoWriter> make_png_folder_writer(const std::filesystem::path& folder);
std::unique_ptr<VideoWriter> make_y4m_writer(const std::filesystem::path& path);

}  // namespace quantsparse::video
