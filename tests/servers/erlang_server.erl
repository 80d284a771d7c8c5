%% Erlang's own SSH server, which serves SFTP from the disk.
%%
%%     escript erlang_server.erl PORT DIRECTORY
%%
%% DIRECTORY holds ssh_host_ed25519_key and authorized_keys.
main([Port, Directory]) ->
    {ok, _} = application:ensure_all_started(ssh),
    {ok, _} = ssh:daemon({127, 0, 0, 1}, list_to_integer(Port), [
        {system_dir, Directory},
        {user_dir, Directory},
        {auth_methods, "publickey"},
        {subsystems, [ssh_sftpd:subsystem_spec([])]}
    ]),
    receive never -> ok end.
