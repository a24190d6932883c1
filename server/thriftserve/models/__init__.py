"""What is served: where it lies, how it is loaded, how it is run.

    flag --repository--> ModelConfig --loader--> Servable --registry--> handler
    file --config_file--> ModelConfig --watcher--> versions to load and unload; mirror: base paths behind URLs

Each noun has a module of its own; import from there. Only `saved_model` and what it calls know TensorFlow.
"""
