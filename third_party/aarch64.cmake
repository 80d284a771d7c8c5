# Builds for 64-bit ARM on another Debian, with its cross compiler and its packages for arm64 (`make aarch64`).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

# The compiler brings a glibc of its own, which gets no security updates: libc6-dev:arm64's goes before it.
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(libraries /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE})
set(CMAKE_EXE_LINKER_FLAGS_INIT "-B${libraries} -L${libraries}")
set(ENV{PKG_CONFIG_LIBDIR} ${libraries}/pkgconfig:/usr/share/pkgconfig)
