// Specialisation constant 0 is the work-group's width in every kernel. All others are declared where they are
// used; the host knows them by name (interface.cmake).
#ifndef QUANTSPARSE_CONSTANTS_GLSL
#define QUANTSPARSE_CONSTANTS_GLSL

layout(local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;

#endif
