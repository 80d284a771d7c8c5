# libssh2: Debian's source with our own patches to it, built here; the system's only where that is asked
# for, or where there is no apt to fetch the source with. Provides the targets libssh2 and libssh2_chacha.
# README.md beside this file says why it must be no other.

option(SYSTEM_LIBSSH2 "Take the system's libssh2, which lacks what third_party/libssh2-patches mends" OFF)

# OpenSSL's ChaCha20 and Poly1305 in place of libssh2's. As object files, which the linker takes
# before it looks into libssh2's archive.
add_library(libssh2_chacha OBJECT "${CMAKE_CURRENT_LIST_DIR}/libssh2-chacha.c")
target_compile_options(libssh2_chacha PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Werror)
target_link_libraries(libssh2_chacha PUBLIC libcrypto Threads::Threads)

# The source lies where `make clean` leaves it, and is shared by all build directories.
set(LIBSSH2_CACHE "${CMAKE_SOURCE_DIR}/build/third_party/libssh2" CACHE PATH
    "Where the source of libssh2 is kept")
set(fetched "${LIBSSH2_CACHE}/source")
find_program(APT_GET apt-get NO_CACHE)
if(SYSTEM_LIBSSH2 OR (NOT APT_GET AND NOT EXISTS "${fetched}/src/Makefile.inc"))
    pkg_check_modules(FOUND_LIBSSH2 QUIET "libssh2>=1.11.1")
    if(NOT FOUND_LIBSSH2_FOUND)
        message(FATAL_ERROR "This system has no libssh2 of version 1.11.1 or newer with its headers, and it is not "
            "built from Debian's source as SYSTEM_LIBSSH2 is set or there is no apt-get to fetch that with.")
    endif()
    find_dependency(libssh2 libssh2.h libssh2-1-dev ssh2)
    if(STATIC)
        link_static_needs(libssh2 ssh2 ${FOUND_LIBSSH2_STATIC_LIBRARIES})
    endif()
    message(WARNING "libssh2 is the system's, ${FOUND_LIBSSH2_VERSION}: a hostile server may be able to crash "
        "it or worse, unless it has what third_party/libssh2-patches mends.")
    return()
endif()

if(NOT EXISTS "${fetched}/src/Makefile.inc")
    message("Fetching Debian's patched source of libssh2 (and 11 MB of package lists), once.")
    execute_process(
        COMMAND "${CMAKE_CURRENT_LIST_DIR}/fetch-libssh2.sh" "${LIBSSH2_CACHE}"
        RESULT_VARIABLE result ERROR_VARIABLE error OUTPUT_QUIET ERROR_STRIP_TRAILING_WHITESPACE)
    if(NOT result EQUAL 0)
        message(FATAL_ERROR "${error}\nTo build with the system's libssh2 all the same: make SYSTEM_LIBSSH2=1")
    endif()
endif()
# Debian's changelog is there only in Debian's source: the bare release must not slip in here.
file(STRINGS "${fetched}/debian/changelog" version LIMIT_COUNT 1)

# A copy is patched, anew whenever this script, a patch or what was fetched is another than before.
set(source "${CMAKE_BINARY_DIR}/libssh2-patched")
set(patched_by "${CMAKE_CURRENT_LIST_DIR}/patch-libssh2.sh")
set(patches "${CMAKE_CURRENT_LIST_DIR}/libssh2-patches")
execute_process(COMMAND "${patched_by}" "${fetched}" "${patches}" "${source}"
    RESULT_VARIABLE result ERROR_VARIABLE error OUTPUT_QUIET ERROR_STRIP_TRAILING_WHITESPACE)
if(NOT result EQUAL 0)
    message(FATAL_ERROR "${error}")
endif()
file(GLOB files CONFIGURE_DEPENDS "${patches}/*.patch")
list(LENGTH files count)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${patched_by}" ${files} "${fetched}/debian/changelog")
message(STATUS "libssh2: built from Debian's source with ${count} patches of ours: ${version}")

# libssh2 from a source: the files to compile are those that its own makefile names.
function(add_libssh2 name source)
    file(READ "${source}/src/Makefile.inc" makefile)
    string(REGEX MATCH "CSOURCES =[^=]*HHEADERS" sources "${makefile}")
    string(REGEX MATCHALL "[a-z0-9_-]+\\.c" sources "${sources}")
    list(TRANSFORM sources PREPEND "${source}/src/")
    add_library(${name} STATIC ${ARGN} ${sources})
    set_target_properties(${name} PROPERTIES PREFIX "")
    target_include_directories(${name} SYSTEM INTERFACE "${source}/include")
    target_include_directories(${name} PRIVATE "${source}/include" "${source}/src")
    # What libssh2's configure would find on any Linux with glibc or musl of the last ten years.
    target_compile_definitions(${name} PRIVATE LIBSSH2_OPENSSL
        HAVE_UNISTD_H HAVE_INTTYPES_H HAVE_SYS_SELECT_H HAVE_SYS_UIO_H HAVE_SYS_SOCKET_H
        HAVE_SYS_IOCTL_H HAVE_SYS_TIME_H HAVE_SYS_UN_H HAVE_ARPA_INET_H HAVE_NETINET_IN_H
        HAVE_GETTIMEOFDAY HAVE_STRTOLL HAVE_SNPRINTF HAVE_EXPLICIT_BZERO HAVE_POLL HAVE_SELECT
        HAVE_O_NONBLOCK)
    # Its assertions and messages name its files: not by where they lie on the machine that builds it.
    target_compile_options(${name} PRIVATE "-ffile-prefix-map=${source}/=libssh2/")
    # AddressSanitizer is to see what a server does to it, too.
    if(INSTRUMENT MATCHES "address")
        target_compile_options(${name} PRIVATE -fsanitize=address -g1)
    endif()
    target_link_libraries(${name} PUBLIC libcrypto)
endfunction()

add_libssh2(libssh2 "${source}")
# As it was fetched, for a test of what happens where a server brings it down.
add_libssh2(libssh2_bare "${fetched}" EXCLUDE_FROM_ALL)
