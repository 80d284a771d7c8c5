# libssh2: the system's where it is 1.11.1 or newer, else Debian's patched source, built here.
# Provides the targets libssh2 and libssh2_chacha. README.md beside this file says why it must not be
# older.

# OpenSSL's ChaCha20 and Poly1305 in place of libssh2's. As object files, which the linker takes
# before it looks into libssh2's archive.
add_library(libssh2_chacha OBJECT "${CMAKE_CURRENT_LIST_DIR}/libssh2-chacha.c")
target_compile_options(libssh2_chacha PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Werror)
target_link_libraries(libssh2_chacha PUBLIC libcrypto Threads::Threads)

pkg_check_modules(SYSTEM_LIBSSH2 QUIET "libssh2>=1.11.1")
if(SYSTEM_LIBSSH2_FOUND)
    find_dependency(libssh2 libssh2.h libssh2-1-dev ssh2)
    if(STATIC)
        link_static_needs(libssh2 ssh2 ${SYSTEM_LIBSSH2_STATIC_LIBRARIES})
    endif()
    message(STATUS "libssh2: the system's, ${SYSTEM_LIBSSH2_VERSION}")
    return()
endif()

# The source lies where `make clean` leaves it, and is shared by all build directories.
set(LIBSSH2_CACHE "${CMAKE_SOURCE_DIR}/build/third_party/libssh2" CACHE PATH
    "Where the source of libssh2 is kept")
set(source "${LIBSSH2_CACHE}/source")
if(NOT EXISTS "${source}/src/Makefile.inc")
    message("Fetching Debian's patched source of libssh2 (and 11 MB of package lists), once.")
    execute_process(
        COMMAND "${CMAKE_CURRENT_LIST_DIR}/fetch-libssh2.sh" "${LIBSSH2_CACHE}"
        RESULT_VARIABLE result ERROR_VARIABLE error OUTPUT_QUIET ERROR_STRIP_TRAILING_WHITESPACE)
    if(NOT result EQUAL 0)
        message(FATAL_ERROR "${error}")
    endif()
endif()
# Debian's changelog is there only in Debian's source: the bare release must not slip in here.
file(STRINGS "${source}/debian/changelog" version LIMIT_COUNT 1)
message(STATUS "libssh2: built from Debian's source: ${version}")

# The files to compile are those that libssh2's own makefile names.
file(READ "${source}/src/Makefile.inc" makefile)
string(REGEX MATCH "CSOURCES =[^=]*HHEADERS" sources "${makefile}")
string(REGEX MATCHALL "[a-z0-9_-]+\\.c" sources "${sources}")
list(TRANSFORM sources PREPEND "${source}/src/")

add_library(libssh2 STATIC ${sources})
set_target_properties(libssh2 PROPERTIES PREFIX "")
target_include_directories(libssh2 SYSTEM INTERFACE "${source}/include")
target_include_directories(libssh2 PRIVATE "${source}/include" "${source}/src")
# What libssh2's configure would find on any Linux with glibc or musl of the last ten years.
target_compile_definitions(libssh2 PRIVATE LIBSSH2_OPENSSL
    HAVE_UNISTD_H HAVE_INTTYPES_H HAVE_SYS_SELECT_H HAVE_SYS_UIO_H HAVE_SYS_SOCKET_H
    HAVE_SYS_IOCTL_H HAVE_SYS_TIME_H HAVE_SYS_UN_H HAVE_ARPA_INET_H HAVE_NETINET_IN_H
    HAVE_GETTIMEOFDAY HAVE_STRTOLL HAVE_SNPRINTF HAVE_EXPLICIT_BZERO HAVE_POLL HAVE_SELECT
    HAVE_O_NONBLOCK)
# Its assertions and messages name its files: not by where they lie on the machine that builds it.
target_compile_options(libssh2 PRIVATE "-ffile-prefix-map=${source}/=libssh2/")
target_link_libraries(libssh2 PUBLIC libcrypto)
