# Filled by the build owner: install rules and the CMake package.
